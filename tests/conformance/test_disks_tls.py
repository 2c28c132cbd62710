"""Whom a mover believes to be a server of disks, over NBD and over the web."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import DiskDenied, DiskServerUntrusted, DiskUnreadable
from holdfast_agent.model.disk_access import DiskAccess
from lab.certificates import Certificates, make_certificates
from lab.contents import assert_same
from lab.disk_suite import SIZE, content
from lab.disks import host_for, nbdkit, raw_image
from lab.nginx import nginx
from lab.ports import free_port

pytestmark = pytest.mark.usefixtures("nbdkit_program")


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "tls")


@contextmanager
def _nbd(folder: Path, made: Certificates) -> Iterator[str]:
    port = free_port()
    tls = ("--tls=require", f"--tls-certificates={made.folder}")
    with nbdkit(folder, "--readonly", *tls, "file", str(raw_image(folder / "disk")), port=port):
        yield f"nbds://localhost:{port}"


@contextmanager
def _web(folder: Path, made: Certificates) -> Iterator[str]:
    (folder / "root").mkdir()
    raw_image(folder / "root" / "disk")
    with nginx(folder / "nginx", folder / "root", made) as port:
        yield f"https://localhost:{port}/disk"


@pytest.fixture(params=[_nbd, _web], ids=["nbds", "https"])
def url(request: pytest.FixtureRequest, tmp_path: Path, made: Certificates) -> Iterator[str]:
    serve: Callable[[Path, Certificates], Iterator[str]] = request.param
    with serve(tmp_path, made) as url:  # type: ignore[attr-defined]
        yield url


def _origin(url: str) -> str:
    return url.removesuffix("/disk")


def test_an_unknown_authority_is_not_believed(url: str, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other")
    for ca in (None, other.ca):
        with pytest.raises(DiskServerUntrusted, match="certificate"):
            open_disk(url, host_for(tmp_path, _origin(url), ca=ca))


def test_another_name_than_the_certificate_has_is_not_believed(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "other-name", name="elsewhere.example", address="127.0.0.9")
    for serve in (_nbd, _web):
        folder = tmp_path / serve.__name__
        folder.mkdir()
        with serve(folder, made) as url, pytest.raises(DiskServerUntrusted, match="ostname"):
            open_disk(url, host_for(tmp_path, _origin(url), ca=made.ca))


def test_a_pinned_certificate_needs_no_authority_and_another_one_is_not_believed(
    url: str, made: Certificates, tmp_path: Path
) -> None:
    host = host_for(tmp_path, _origin(url))
    pinned = DiskAccess(origin=_origin(url), certificate_sha256=made.fingerprint)
    with closing(open_disk(url, host, [pinned])) as disk:
        buffer = bytearray(SIZE)
        disk.read_into(0, memoryview(buffer))
        assert_same(buffer, content())
    wrong = DiskAccess(origin=_origin(url), certificate_sha256="00" * 32)
    with pytest.raises(DiskServerUntrusted, match=made.fingerprint):
        open_disk(url, host_for(tmp_path, _origin(url), ca=made.ca), [wrong])


def test_tls_is_never_left_out(tmp_path: Path, made: Certificates) -> None:
    port = free_port()
    with nbdkit(tmp_path, "--tls=off", "memory", "1M", port=port), pytest.raises(DiskDenied, match="offers no TLS"):
        open_disk(f"nbds://localhost:{port}", host_for(tmp_path, "nbds://localhost", ca=made.ca))
    with _nbd(tmp_path, made) as url:
        plain = url.replace("nbds", "nbd")
        with pytest.raises(DiskDenied, match="nbds:"):
            open_disk(plain, host_for(tmp_path, _origin(plain)))


def test_a_server_that_asks_for_our_certificate(tmp_path: Path, made: Certificates) -> None:
    port = free_port()
    tls = ("--tls=require", f"--tls-certificates={made.folder}", "--tls-verify-peer")
    with nbdkit(tmp_path, "--readonly", *tls, "file", str(raw_image(tmp_path / "disk")), port=port):
        url, host = f"nbds://localhost:{port}", host_for(tmp_path, "nbds://localhost", ca=made.ca)
        with pytest.raises(DiskUnreadable):
            open_disk(url, host)
        files = {"tls_certificate_file": str(made.certificate), "tls_key_file": str(made.key)}
        with closing(open_disk(url, msgspec.structs.replace(host, **files))) as disk:
            assert disk.size_bytes == SIZE


def test_an_authority_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for url in ("nbds://localhost", "https://localhost/disk"):
        with pytest.raises(DiskUnreadable, match="TLS"):
            open_disk(url, host_for(tmp_path, url.removesuffix("/disk"), ca=tmp_path / "absent"))


def test_qemu_over_tls(tmp_path: Path, qemu_nbd: str, made: Certificates) -> None:
    port, pid = free_port(), tmp_path / "pid"
    tls = ["--object", f"tls-creds-x509,id=tls,endpoint=server,dir={made.folder},verify-peer=no", "--tls-creds=tls"]
    image = raw_image(tmp_path / "disk")
    command = [qemu_nbd, "--read-only", "--persistent", "--bind=127.0.0.1", f"--port={port}", f"--pid-file={pid}"]
    with subprocess.Popen([*command, *tls, "--format=raw", image]) as server:
        try:
            while not pid.exists():
                assert server.poll() is None
            host = host_for(tmp_path, f"nbds://127.0.0.1:{port}", ca=made.ca)
            with closing(open_disk(f"nbds://127.0.0.1:{port}", host)) as disk:
                buffer = bytearray(SIZE)
                disk.read_into(0, memoryview(buffer))
                assert_same(buffer, content())
        finally:
            server.kill()
