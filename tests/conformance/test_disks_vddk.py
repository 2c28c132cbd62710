"""Disks through VMware's development kit: nbdkit is real, its plugin vddk a stand-in with the same parameters."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.disks.disk import ReadableDisk, RewritableDisk, WritableDisk
from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.errors import (
    DiskDenied,
    DiskError,
    DiskInUse,
    DiskNotFound,
    DiskServerDenied,
    DiskServerUntrusted,
    DiskUnreadable,
    UsageError,
)
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.wire.movers import MoverHost
from lab.certificates import Certificates, make_certificates
from lab.contents import assert_same
from lab.disk_suite import DiskSuite, content
from lab.disks import host_for, raw_image
from lab.nginx import nginx
from lab.vddk import Vddk

USER, PASSWORD = "backup@vsphere.local", "pass-word 7"
DISK = "[store]%20web/web.vmdk?snapshot=snapshot-2&transports=nbdssl%3Anbd&vm=vm-1"


class Kit:
    """A proxy with the kit, and a vCenter's certificate on a port."""

    def __init__(self, folder: Path, port: int, certificates: Certificates, vddk: Vddk) -> None:
        self.vddk = vddk
        self.certificate = certificates.certificate
        self.origin = f"vddk://127.0.0.1:{port}"
        self.access = DiskAccess(
            origin=self.origin, user=USER, password=PASSWORD, certificate_sha256=certificates.fingerprint
        )
        self.host: MoverHost = msgspec.structs.replace(host_for(folder, self.origin), vddk_dir="/opt/vddk")

    def open_target(self, disk: str, size_bytes: int) -> WritableDisk:
        return open_target(
            f"{self.origin}/{disk}", self.host, size_bytes, create=False, overwrite=False, granted=[self.access]
        )

    def open(self, disk: str = DISK, **changed: str) -> ReadableDisk:
        access = msgspec.structs.replace(self.access, **changed)
        return open_disk(f"{self.origin}/{disk}", self.host, [access])


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    vddk = Vddk(tmp_path / "kit", raw_image(tmp_path / "disk"), USER, PASSWORD)
    monkeypatch.setenv("PATH", f"{vddk.folder}:{os.environ['PATH']}")
    certificates = make_certificates(tmp_path / "tls", "vcenter.lab", "127.0.0.2")
    with nginx(tmp_path / "nginx", tmp_path, certificates) as port:
        yield Kit(tmp_path, port, certificates, vddk)


class TestVddk(DiskSuite):
    tells_holes = False

    @pytest.fixture
    def disk(self, kit: Kit) -> Iterator[ReadableDisk]:
        with closing(kit.open()) as disk:
            yield disk


def test_the_kit_is_given_what_it_needs_and_no_secret_stands_where_others_see_it(kit: Kit) -> None:
    kit.open().close()
    thumbprint = hashlib.sha1(ssl.PEM_cert_to_DER_cert(kit.certificate.read_text()), usedforsecurity=False)
    assert kit.vddk.values == {
        "libdir": "/opt/vddk",
        "server": "127.0.0.1",
        "port": kit.origin.rpartition(":")[2],
        "user": USER,
        "password": PASSWORD,
        "thumbprint": thumbprint.digest().hex(":"),
        "vm": "moref=vm-1",
        "snapshot": "snapshot-2",
        "transports": "nbdssl:nbd",
        "file": "[store] web/web.vmdk",
    }
    assert "--readonly" in kit.vddk.arguments
    assert not [argument for argument in kit.vddk.arguments if PASSWORD in argument]


@pytest.mark.parametrize(
    ("disk", "changed", "error", "reason"),
    [
        (DISK, {"password": "wrong"}, DiskDenied, "incorrect user name"),
        (DISK.replace("snapshot-2", "snapshot-3"), {}, DiskNotFound, "does not exist"),
        (DISK.replace("web.vmdk", "other.vmdk"), {}, DiskNotFound, "does not exist"),
        (DISK, {"certificate_sha256": "ab" * 32}, DiskServerUntrusted, "not the pinned"),
        (DISK, {"certificate_sha256": ""}, DiskServerUntrusted, "certificate"),
    ],
)
def test_what_the_kit_refuses(
    kit: Kit, disk: str, changed: dict[str, str], error: type[DiskError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        kit.open(disk, **changed)


WRITABLE = DISK.replace("snapshot=snapshot-2&", "")


def test_a_disk_of_a_vm_that_is_off_is_rewritten(kit: Kit) -> None:
    expected = bytearray(content())
    target = kit.open_target(WRITABLE, len(expected))
    assert isinstance(target, RewritableDisk)
    for at, data in ((0, b"first" * 1000), (len(expected) - 700, b"z" * 700)):
        target.write(at, data)
        expected[at : at + len(data)] = data
    target.write_zeros(70_000, 200_000)
    expected[70_000:270_000] = bytes(200_000)
    seen = bytearray(4096)
    target.now.read_into(0, memoryview(seen))
    assert_same(seen, expected[:4096])
    target.finish()
    assert "--readonly" not in kit.vddk.arguments
    with closing(kit.open(WRITABLE)) as disk:
        seen = bytearray(disk.size_bytes)
        disk.read_into(0, memoryview(seen))
        assert_same(seen, expected)
    assert "--readonly" in kit.vddk.arguments, "who reads cannot write"


def test_a_disk_that_a_snapshot_froze_or_that_is_locked_is_not_rewritten(kit: Kit) -> None:
    with pytest.raises(UsageError, match="of a snapshot"):
        kit.open_target(DISK, len(content()))
    (kit.vddk.folder / "locked").touch()
    with pytest.raises(DiskInUse, match="Failed to lock"):
        kit.open_target(WRITABLE, len(content()))


def test_a_locked_disk_and_one_that_breaks_off(kit: Kit) -> None:
    (kit.vddk.folder / "locked").touch()
    with pytest.raises(DiskInUse, match="Failed to lock"):
        kit.open()
    (kit.vddk.folder / "locked").unlink()
    with closing(kit.open()) as disk:
        (kit.vddk.folder / "broken").touch()
        with pytest.raises(DiskUnreadable, match="NBD_ERR_NETWORK_CONNECT"):
            disk.read_into(0, memoryview(bytearray(4096)))


def test_a_proxy_without_the_kit_and_a_server_that_it_may_not_reach(kit: Kit) -> None:
    kit.host = msgspec.structs.replace(kit.host, vddk_dir="")
    with pytest.raises(DiskDenied, match=r"proxy\.vddk_dir"):
        kit.open()
    kit.host = msgspec.structs.replace(kit.host, disk_servers=("https://127.0.0.1",))
    with pytest.raises(DiskServerDenied):
        kit.open()
