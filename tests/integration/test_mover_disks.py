"""Real movers between a repository and disks on other hosts: read over TLS, restored over NBD."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_agent.errors import DiskDenied, DiskServerDenied
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.wire.movers import Begin, Finished
from holdfast_agent.wire.specs import BackupOrder
from lab.certificates import Certificates, make_certificates
from lab.contents import assert_same
from lab.disk_suite import SIZE, content
from lab.disks import nbdkit, raw_image
from lab.movers import Site
from lab.nginx import nginx
from lab.ports import free_port
from lab.tools import require_tool

GEOMETRY = Geometry(SIZE, 16)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    require_tool("nbdkit", "nbdkit")
    return Site(tmp_path)


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "tls")


def backup(site: Site, url: str, made: Certificates, *access: DiskAccess, mode: ChangeMode) -> BlockId:
    """The root of a disk that is read from a server which the agent's configuration names."""
    origin = url.removesuffix("/disk")
    host = {"disk_servers": (origin,), "tls_ca_file": str(made.ca)}
    with site.session() as session, site.backup_pair(session.sid, **host) as (source, target):
        source.send(Begin(order=BackupOrder(geometry=GEOMETRY, disks=(url,), mode=mode, access=access)))
        root = source.expect(Finished).result.root
        assert target.expect(Finished).result.root == root
        assert root is not None
        return root


def local_root(site: Site) -> BlockId:
    """The root of the same content in a file."""
    root = site.backup(f"file:{raw_image(site.folder / 'disks' / 'local')}", GEOMETRY).proxy.root
    assert root is not None
    return root


@pytest.mark.parametrize("mode", [ChangeMode.ALLOCATION, ChangeMode.FULL])
def test_a_disk_over_nbd_with_tls_is_the_same_as_a_file(site: Site, made: Certificates, mode: ChangeMode) -> None:
    port = free_port()
    options = ("--tls=require", f"--tls-certificates={made.folder}", "file", str(raw_image(site.folder / "image")))
    with nbdkit(site.folder, "--readonly", *options, port=port):
        assert backup(site, f"nbds://localhost:{port}", made, mode=mode) == local_root(site)


def test_a_disk_on_a_web_server_is_read_with_the_secret_that_came_with_the_order(
    site: Site, made: Certificates
) -> None:
    root = site.folder / "root"
    root.mkdir()
    raw_image(root / "disk")
    login = 'if ($cookie_session != "abc") { return 403; }'
    with nginx(site.folder / "nginx", root, made, f"location /disk {{ {login} }}") as port:
        url = f"https://localhost:{port}/disk"
        access = DiskAccess(origin=f"https://localhost:{port}", cookie="session=abc")
        assert backup(site, url, made, access, mode=ChangeMode.ALLOCATION) == local_root(site)
        with pytest.raises(DiskDenied, match="403"):
            backup(site, url, made, mode=ChangeMode.ALLOCATION)


def test_a_manager_cannot_send_a_mover_to_another_server(site: Site) -> None:
    with site.session() as session, site.backup_pair(session.sid) as (source, _):
        order = BackupOrder(geometry=GEOMETRY, disks=("nbd://127.0.0.1",), mode=ChangeMode.FULL)
        source.send(Begin(order=order))
        assert isinstance(source.failure(), DiskServerDenied)


def test_a_restore_over_nbd_writes_every_byte_and_nothing_else(site: Site) -> None:
    root = local_root(site)
    image = site.folder / "target"
    image.write_bytes(b"\xee" * (SIZE + 4096))
    with nbdkit(site.folder / "disks", "file", str(image)) as socket:
        site.restore(root, GEOMETRY, f"nbd+unix:{socket}", create=False, overwrite=True)
    assert_same(image.read_bytes(), content() + b"\xee" * 4096)
