"""Clients of an export over NFS that lie, break off, flood or come from elsewhere: it goes on for all others."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from holdfast_agent.errors import Locked
from holdfast_agent.export.nfs.names import MOST_NODES
from holdfast_agent.export.nfs.protocol import MOST_IO_BYTES, MOUNT, NFS, PORTMAPPER, PORTMAPPER_PORT, Procedure, Status
from holdfast_agent.export.nfs.rpc import MOST_RECORD_BYTES
from holdfast_agent.export.nfs.server import MOST_CLIENTS
from holdfast_agent.export.nfs.xdr import boolean, opaque, uhyper, uint
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.wire.specs import ExportDisk
from lab import repositories as lab
from lab.exports import content_of, store, trees_of
from lab.movers import Site
from lab.nfs_client import RawNfs, verifier_at_end
from lab.nfs_exports import NfsExport, nfs_exported

GEOMETRY = Geometry(8 * lab.BLOCK, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in range(0, 8, 2)}
WANT = content_of(BLOCKS, GEOMETRY)
MOST_RSS_BYTES = 220 << 20
FLAT = "root-flat.vmdk"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def disks(site: Site) -> tuple[ExportDisk, ...]:
    return trees_of(store(site, BLOCKS, GEOMETRY))


@pytest.fixture(scope="module")
def share(site: Site, disks: tuple[ExportDisk, ...]) -> Iterator[NfsExport]:
    with nfs_exported(site, disks, cache_bytes=16 << 20) as share:
        yield share


def reads_well(client: RawNfs) -> bool:
    _, root = client.mounted()
    _, flat = client.lookup(root, FLAT)
    return client.read(flat, 1000, 200_000) == (0, WANT[1000:201_000], False)


@pytest.fixture(autouse=True)
def others_are_unaffected(share: NfsExport) -> Iterator[None]:
    """A client that was there before, and one that comes after; the process is the same, and no larger."""
    with RawNfs(share) as before:
        yield
        assert reads_well(before)
    with RawNfs(share) as after:
        assert reads_well(after)
    process = share.export.mover.process
    assert process.poll() is None
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    assert peak < MOST_RSS_BYTES


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.binary(max_size=300))
@example(0, b"")
@example(1 << 31, b"")
@example(1 << 31 | MOST_RECORD_BYTES, b"x")
@example((1 << 31) - 1, b"x")
def test_any_bytes_end_a_connection_or_are_waited_for(share: NfsExport, head: int, body: bytes) -> None:
    with RawNfs(share) as client, contextlib.suppress(OSError):
        client.socket.sendall(uint(head) + body)
        client.socket.shutdown(socket.SHUT_WR)
        while client.socket.recv(1 << 16):
            pass
    assert share.export.mover.process.poll() is None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([NFS, MOUNT, PORTMAPPER]), st.integers(0, 23), st.booleans(), st.sampled_from(["", FLAT]),
    st.binary(max_size=120), st.integers(0, 40),
)  # fmt: skip
def test_any_arguments_get_an_answer(
    share: NfsExport, program: int, procedure: int, with_handle: bool, of: str, rest: bytes, cut: int
) -> None:
    """On the same connection, whatever they are: status, "garbage", or "no such procedure"."""
    with RawNfs(share) as client:
        _, root = client.mounted()
        handle = client.lookup(root, of)[1] if of else root
        if of and procedure in (Procedure.WRITE, Procedure.SETATTR):
            return  # which may well be meant, and others look at the disk
        arguments = ((handle if with_handle else b"") + rest)[: max(0, 200 - cut)]
        message = client.message(program, 2 if program == PORTMAPPER else 3, procedure, arguments)
        reply = client.exchange(message)
        assert reply[:4] == message[:4]
        assert reads_well(client)


def test_a_client_from_elsewhere_is_sent_away(site: Site, disks: tuple[ExportDisk, ...]) -> None:
    with nfs_exported(site, disks, name="other", clients=("10.1.2.3", "fe80::1")) as share:
        for port in (PORTMAPPER_PORT, 2049):
            with socket.create_connection((share.address, port), 10) as client:
                assert client.recv(1) == b"", "the connection is ended before a word is heard"


def test_an_address_is_one_exports_for_as_long_as_that_exists(site: Site, disks: tuple[ExportDisk, ...]) -> None:
    with nfs_exported(site, disks, name="first") as first:
        first.export.mover.process.kill()
        first.export.mover.process.wait()
    with pytest.raises(Locked), nfs_exported(site, disks, name="second", address=first.address):
        pass
    with nfs_exported(site, disks, name="first", address=first.address):
        pass


def test_bounds_of_names_handles_and_lengths(share: NfsExport) -> None:
    with RawNfs(share) as client:
        assert client.mounted("/")[0] == client.mounted("/holdfast/other")[0] == Status.NOENT
        _, root = client.mounted()
        _, flat = client.lookup(root, FLAT)
        for name in (b"a/b", b"..", b".", b"", b"nul\0", b"\xff\xfe"):
            assert client.create(root, name) == Status.INVAL
        assert client.create(root, b"x" * 256) == Status.NAMETOOLONG
        assert client.create(flat, b"x") == Status.NOTDIR
        for handle, status in (
            (opaque(b"short"), Status.BADHANDLE), (opaque(bytes(16)), Status.STALE),
            (root[:-8] + uhyper(2**63), Status.STALE),
        ):  # fmt: skip
            assert client.nfs(Procedure.GETATTR, handle)[0] == status
            assert client.write(handle, 0, b"x")[0] == status
        assert client.write(flat, GEOMETRY.size_bytes - 1, b"xx")[0] == Status.FBIG
        assert client.write(flat, 2**64 - 1, b"x")[0] == Status.FBIG
        assert client.write(root, 0, b"x")[0] == Status.ISDIR
        assert len(client.read(flat, 0, 2**32 - 1)[1]) == min(MOST_IO_BYTES, GEOMETRY.size_bytes)
        assert client.read(flat, 2**64 - 1, 10) == (0, b"", True)
        assert client.nfs(Procedure.READDIR, root, uhyper(0) * 2, uint(20))[0] == Status.TOOSMALL
        _, own = client.lookup(root, "root.vmdk")
        assert client.write(own, 1 << 62, b"x")[0] == Status.FBIG


def test_files_are_bounded_in_number(share: NfsExport) -> None:
    with RawNfs(share) as client:
        _, root = client.mounted()
        told = [client.create(root, b"many-%d" % number) for number in range(MOST_NODES)]
        assert told[0] == Status.OK
        assert told[-1] == Status.NOSPC
        for number in range(told.count(Status.OK)):
            assert client.nfs(Procedure.REMOVE, root, opaque(b"many-%d" % number))[0] == Status.OK


def test_clients_are_bounded_in_number(share: NfsExport) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawNfs(share, 2049)) for _ in range(MOST_CLIENTS + 8)]
        with pytest.raises((ConnectionError, EOFError)):
            for client in clients:
                client.call(NFS, 3, 0)


def test_the_write_verifier_is_another_one_after_each_start(site: Site, disks: tuple[ExportDisk, ...]) -> None:
    found, address = [], ""
    for _ in range(2):
        with nfs_exported(site, disks, name="verified", address=address) as share, RawNfs(share) as client:
            address = share.address
            _, root = client.mounted()
            _, flat = client.lookup(root, FLAT)
            _, written = client.write(flat, 0, b"x", stable=0)
            _, reader = client.nfs(Procedure.COMMIT, flat, uhyper(0), uint(0))
            assert verifier_at_end(reader) == written
            found.append(written)
    assert found[0] != found[1]


def test_an_exclusive_creation_may_be_said_twice(share: NfsExport) -> None:
    """As a client does that was not answered; another client's is refused."""
    with RawNfs(share) as client:
        _, root = client.mounted()
        told = [
            client.nfs(Procedure.CREATE, root, opaque(b"lock"), uint(2), verifier)[0]
            for verifier in (b"mine....", b"mine....", b"another.")
        ]
        assert told == [Status.OK, Status.OK, Status.EXIST]
        client.nfs(Procedure.REMOVE, root, opaque(b"lock"))


def test_a_wish_with_an_old_time_changes_nothing(share: NfsExport) -> None:
    with RawNfs(share) as client:
        _, root = client.mounted()
        _, own = client.lookup(root, "root.vmdk")
        nothing = boolean(False) * 3 + boolean(True) + uhyper(0) + uint(0) * 2
        guarded = boolean(True) + uint(1) + uint(1)
        assert client.nfs(Procedure.SETATTR, own, nothing, guarded)[0] == Status.NOT_SYNC
        assert client.read(own, 0, 10)[1] == b"# Disk Des"
