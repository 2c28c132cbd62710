"""Exports as the tools of others see them: nbdinfo, nbdcopy, qemu-img, qemu-io, nbdkit, nbdsh, and our own client."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import Denied, DiskDenied, HoldfastError, Locked, UsageError
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.points import Point
from holdfast_agent.wire.movers import Finished
from lab import repositories as lab
from lab.certificates import make_certificates
from lab.disks import host_for, nbdkit
from lab.exports import Export, content_of, exported, nbdsh, run, store, trees_of
from lab.movers import Site, stop
from lab.tools import require_tool

GEOMETRY = Geometry(600 * lab.BLOCK + 12345, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in [*range(40), *range(300, 420)]}
BLOCKS[600] = lab.block(600)[:12345].ljust(lab.BLOCK, b"\0")
WANT = content_of(BLOCKS, GEOMETRY)
MAP = [
    (0, 40 * lab.BLOCK, 0),
    (40 * lab.BLOCK, 260 * lab.BLOCK, 3),
    (300 * lab.BLOCK, 120 * lab.BLOCK, 0),
    (420 * lab.BLOCK, 180 * lab.BLOCK, 3),
    (600 * lab.BLOCK, 12345, 0),
]
WHERE = ["local", "remote"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def point(site: Site) -> Point:
    return store(site, BLOCKS, GEOMETRY)


@pytest.fixture(scope="module", params=WHERE)
def export(request: pytest.FixtureRequest, site: Site, point: Point) -> Iterator[Export]:
    """Read-only, with its repository on the same host and on another."""
    remote = request.param == "remote"
    with exported(site, trees_of(point), name=request.param, remote=remote, description="vm of a test") as export:
        yield export


@pytest.fixture
def writable(site: Site, point: Point) -> Iterator[Export]:
    with exported(site, trees_of(point), name=f"w{os.urandom(4).hex()}", writable=True) as export:
        yield export


def test_nbdinfo_is_told_all_of_it(export: Export) -> None:
    require_tool("nbdinfo", "libnbd-bin")
    (facts,) = json.loads(run("nbdinfo", "--json", export.uri))["exports"]
    assert facts["export-size"] == GEOMETRY.size_bytes
    assert facts["description"] == "vm of a test"
    assert facts["is_read_only"] and facts["can_multi_conn"] and facts["can_df"] and not facts["can_flush"]
    assert facts["contexts"] == ["base:allocation"]
    runs = json.loads(run("nbdinfo", "--json", "--map", export.uri))
    assert [(run["offset"], run["length"], run["type"]) for run in runs] == MAP


def test_the_exports_are_listed_and_the_only_one_needs_no_name(export: Export) -> None:
    listed = json.loads(run("nbdinfo", "--json", "--list", f"nbd+unix://?socket={export.socket}"))
    assert [each["export-name"] for each in listed["exports"]] == ["root"]
    assert run("nbdinfo", "--size", f"nbd+unix://?socket={export.socket}").strip() == str(GEOMETRY.size_bytes)
    assert "No such file or directory" in run("nbdinfo", f"nbd+unix:///other?socket={export.socket}", check=False)


def test_nbdcopy_gets_every_byte_and_every_hole(export: Export, tmp_path: Path) -> None:
    require_tool("nbdcopy", "libnbd-bin")
    copy = tmp_path / "copy"
    run("nbdcopy", export.uri, copy)
    assert (copy.read_bytes() == WANT) is True
    assert copy.stat().st_blocks * 512 <= (len(BLOCKS) + 1) * lab.BLOCK


def test_qemu_img_gets_every_byte(export: Export, tmp_path: Path) -> None:
    require_tool("qemu-img", "qemu-utils")
    copy = tmp_path / "copy.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", export.uri, copy)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", export.uri, copy)


def test_our_own_client_reads_it(export: Export) -> None:
    url = f"nbd+unix:{export.socket}?export=root"
    with contextlib.closing(open_disk(url, host_for(export.folder))) as disk:
        assert disk.size_bytes == GEOMETRY.size_bytes
        assert [(each.start, each.length, 0 if each.data else 3) for each in disk.extents()] == MAP
        buffer = bytearray(lab.BLOCK * 3 + 77)
        disk.read_into(39 * lab.BLOCK - 5, memoryview(buffer))
        assert (buffer == WANT[39 * lab.BLOCK - 5 :][: len(buffer)]) is True


def test_a_client_without_structured_replies_reads_it_through_nbdkit(export: Export, tmp_path: Path) -> None:
    """The nbd plugin in between, and at the end a client that wants nothing but the oldest of the protocol."""
    with nbdkit(tmp_path, "nbd", f"uri={export.uri}") as socket:
        copy = tmp_path / "copy"
        run("nbdcopy", f"nbd+unix://?socket={socket}", copy)
        assert (copy.read_bytes() == WANT) is True
    script = "\n".join(
        (
            "h.set_request_structured_replies(False)",
            "h.set_handshake_flags(0)",  # not even fixed newstyle, which must be refused
            f"try: h.connect_unix('{export.socket}'); print('connected')",
            "except nbd.Error: print('refused')",
            "h = nbd.NBD(); h.set_request_structured_replies(False); h.set_opt_mode(False)",
            f"h.set_export_name('root'); h.connect_unix('{export.socket}')",
            f"print(h.get_structured_replies_negotiated(), h.pread(70000, {40 * lab.BLOCK - 1000}).hex())",
        )
    )
    first, second = nbdsh(script)
    structured, found = second.split()
    assert (first, structured) == ("refused", "False")
    assert (bytes.fromhex(found) == WANT[40 * lab.BLOCK - 1000 :][:70000]) is True


def test_libnbd_sees_replies_as_the_protocol_wants_them(export: Export) -> None:
    """In strict mode libnbd complains of whatever a server does wrong; here besides what goes wrong on purpose."""
    script = "\n".join(
        (
            "h.add_meta_context('base:allocation'); h.set_export_name('root')",
            f"h.connect_unix('{export.socket}'); h.set_strict_mode(0)",
            "chunks = []",
            f"size = {3 * lab.BLOCK}",
            f"h.pread_structured(size, {39 * lab.BLOCK}, lambda b, o, s, e: chunks.append((o, len(b), s)))",
            "print(chunks)",
            f"chunks.clear(); h.pread_structured(size, {39 * lab.BLOCK}, lambda b, o, s, e: chunks.append((o, s)),"
            " nbd.CMD_FLAG_DF); print(len(chunks))",
            "runs = []",
            f"h.block_status(size, {39 * lab.BLOCK}, lambda c, o, e, err: runs.append((c, e)), nbd.CMD_FLAG_REQ_ONE)",
            "print(runs)",
            "def fails(call):\n  try: call()\n  except nbd.Error as error: print(error.errno)",
            f"fails(lambda: h.pread(512, {GEOMETRY.size_bytes - 511}))",
            "fails(lambda: h.pread(512, 1 << 62))",
            "fails(lambda: h.pwrite(b'x', 0))",
            "fails(lambda: h.zero(1, 0))",
            "fails(lambda: h.flush())",
            "h.cache(4096, 0)",
            "print(len(h.pread(1, 0)))",
        )
    )
    lines = nbdsh(script)
    at = 39 * lab.BLOCK
    assert lines[0] == str([(at, lab.BLOCK, 1), (at + lab.BLOCK, 2 * lab.BLOCK, 2)])
    assert lines[1:3] == ["1", str([("base:allocation", [lab.BLOCK, 0])])]
    assert lines[3:] == ["EINVAL", "EINVAL", "EPERM", "EPERM", "EPERM", "1"]


def test_several_disks_are_several_exports(site: Site, point: Point, tmp_path: Path) -> None:
    other = store(site, {7: lab.block("other")}, Geometry(1 << 20, lab.LOG2))
    (first,), (second,) = trees_of(point), trees_of(other)
    disks = (first, type(second)(name="data disk, ü", tree=second.tree))
    with exported(site, disks, name="two") as export:
        listed = json.loads(run("nbdinfo", "--json", "--list", f"nbd+unix://?socket={export.socket}"))
        assert {each["export-name"] for each in listed["exports"]} == {"root", "data disk, ü"}
        run("nbdcopy", export.uris[1], tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content_of({7: lab.block("other")}, Geometry(1 << 20, lab.LOG2))
        assert "No such file or directory" in run("nbdinfo", f"nbd+unix://?socket={export.socket}", check=False)


def test_an_empty_disk_and_a_disk_of_zeros(site: Site, tmp_path: Path) -> None:
    for number, size in enumerate((0, 5 << 40)):
        disks = trees_of(store(site, {}, Geometry(size, 20)))
        with exported(site, disks, name=f"z{number}") as export:
            runs = json.loads(run("nbdinfo", "--json", "--map", export.uri))
            assert sum(each["length"] for each in runs) == size
            assert {each["type"] for each in runs} == ({3} if size else set())


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_copy_into_a_writable_export_arrives(writable: Export, tmp_path: Path) -> None:
    new = content_of({n: lab.block(("new", n)) for n in (*range(35, 45), 419, 420, 599)}, GEOMETRY)
    (tmp_path / "new").write_bytes(new)
    run("nbdcopy", tmp_path / "new", writable.uri)
    run("nbdcopy", writable.uri, tmp_path / "copy")
    assert ((tmp_path / "copy").read_bytes() == new) is True


def test_qemu_io_writes_parts_zeros_and_discards(writable: Export, tmp_path: Path) -> None:
    require_tool("qemu-io", "qemu-utils")
    commands = (
        "write -P 7 100 5000",  # parts of cells of the point's data
        f"write -P 8 {50 * lab.BLOCK + 1} 1",  # a part of a hole
        f"write -z {2 * lab.BLOCK + 33} {lab.BLOCK}",
        f"write -zu {300 * lab.BLOCK} {5 * lab.BLOCK}",
        f"discard {310 * lab.BLOCK} {lab.BLOCK}",
        f"write -f -P 9 {600 * lab.BLOCK + 12000} 345",  # the end of the disk, durable
        "flush",
        "read -P 7 100 5000",
    )
    run("qemu-io", "-f", "raw", *(part for command in commands for part in ("-c", command)), writable.uri)
    want = bytearray(WANT)
    want[100:5100] = b"\7" * 5000
    want[50 * lab.BLOCK + 1] = 8
    want[2 * lab.BLOCK + 33 : 3 * lab.BLOCK + 33] = bytes(lab.BLOCK)
    want[300 * lab.BLOCK : 305 * lab.BLOCK] = bytes(5 * lab.BLOCK)
    want[310 * lab.BLOCK : 311 * lab.BLOCK] = bytes(lab.BLOCK)
    want[600 * lab.BLOCK + 12000 :] = b"\t" * 345
    run("nbdcopy", writable.uri, tmp_path / "copy")
    assert ((tmp_path / "copy").read_bytes() == want) is True
    runs = json.loads(run("nbdinfo", "--json", "--map", writable.uri))
    assert any(each["type"] == 3 and each["offset"] == 310 * lab.BLOCK for each in runs)


def test_several_clients_see_what_one_has_written(writable: Export) -> None:
    """Multi-conn: a flush on one connection covers what another has been answered."""
    script = "\n".join(
        (
            "a, b = nbd.NBD(), nbd.NBD()",
            f"for h in (a, b): h.set_export_name('root'); h.connect_unix('{writable.socket}')",
            "assert a.can_multi_conn() and a.can_fua() and a.can_trim() and a.can_fast_zero()",
            "a.pwrite(b'from a' * 1000, 12345)",
            "assert b.pread(6000, 12345) == b'from a' * 1000",
            "b.pwrite(b'from b', 12345 + 6)",
            "b.flush()",
            "print(a.pread(18, 12345).decode())",
            "b.zero(4096, 12345, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)",
            "print(a.pread(4096, 12345) == bytes(4096))",
        )
    )
    assert nbdsh(script) == ["from afrom bfrom a", "True"]


def test_what_was_written_is_there_for_the_next_exporter_and_the_point_is_as_it_was(site: Site, point: Point) -> None:
    for turn in range(2):
        with exported(site, trees_of(point), name="again", writable=True) as export:
            assert nbdsh("print(h.pread(1, 5000)[0])", export.uri) == ["77" if turn else str(WANT[5000])]
            nbdsh("h.pwrite(b'M', 5000)", export.uri)
            stop(export.mover)
            export.mover.expect(Finished)  # which flushes
    with exported(site, trees_of(point), name="readonly") as export:
        assert nbdsh("print(h.pread(1, 5000)[0])", export.uri) == [str(WANT[5000])]


# --- where it listens, and who may ----------------------------------------------------------------------------------


def test_the_socket_is_its_owner_s_alone_and_goes_with_the_export(site: Site, point: Point) -> None:
    with exported(site, trees_of(point), name="mode") as export:
        assert stat.S_IMODE(export.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(export.folder.stat().st_mode) == 0o700
        stop(export.mover)
        export.mover.expect(Finished)
        assert not export.folder.exists()


def test_a_socket_elsewhere_lies_below_the_directories_that_the_agent_may_use(site: Site, point: Point) -> None:
    place = site.folder / "disks" / "vm.sock"
    with exported(site, trees_of(point), name="else", listen=f"unix:{place}") as export:
        assert run("nbdinfo", "--size", f"nbd+unix:///root?socket={place}").strip() == str(GEOMETRY.size_bytes)
        with pytest.raises(Locked), exported(site, trees_of(point), name="more", listen=f"unix:{place}"):
            pass
        export.mover.process.kill()  # leaves its socket, which the next one may replace
    with exported(site, trees_of(point), name="else", listen=f"unix:{place}"):
        assert run("nbdinfo", "--size", f"nbd+unix:///root?socket={place}").strip() == str(GEOMETRY.size_bytes)
    (site.folder / "disks" / "file").write_text("mine")
    (site.folder / "disks" / "link").symlink_to(site.folder)
    wrong: list[tuple[str, type[HoldfastError]]] = [
        (f"unix:{site.folder}/out.sock", DiskDenied),
        (f"unix:{site.folder}/disks/link/out.sock", DiskDenied),
        (f"unix:{site.folder}/disks/../out.sock", UsageError),
        (f"unix:{site.folder}/disks/file", UsageError),
        ("tcp:127.0.0.1:1", UsageError),
        ("tls", Denied),
    ]
    for listen, error in wrong:
        with pytest.raises(error), exported(site, trees_of(point), name="wrong", listen=listen):
            pass
    assert (site.folder / "disks" / "file").read_text() == "mine"


def test_an_export_is_served_once(site: Site, point: Point) -> None:
    with (
        exported(site, trees_of(point), name="once", writable=True),
        pytest.raises(Locked),
        exported(site, trees_of(point), name="once", writable=True),
    ):
        pass


def test_over_tcp_nobody_without_a_certificate_of_the_right_authority_is_served(
    site: Site, point: Point, tmp_path: Path
) -> None:
    ours, theirs = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "theirs")
    for each in (ours, theirs):
        for kind in ("cert", "key"):
            (each.folder / f"client-{kind}.pem").write_bytes((each.folder / f"server-{kind}.pem").read_bytes())
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    (nobody / "ca-cert.pem").write_bytes(ours.ca.read_bytes())
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for name in ("client-cert.pem", "client-key.pem"):
        (stranger / name).write_bytes((theirs.folder / name).read_bytes())
    (stranger / "ca-cert.pem").write_bytes(ours.ca.read_bytes())
    files = (ours.certificate, ours.key, ours.ca)
    with exported(site, trees_of(point), name="tls", listen="tls", tls=files) as export:
        assert export.uri.startswith("nbds://127.0.0.1:")
        port = int(export.uri.split(":")[2].split("/")[0])
        good = f"{export.uri}?tls-certificates={ours.folder}"
        copy = tmp_path / "copy"
        run("nbdcopy", good, copy)
        assert (copy.read_bytes() == WANT) is True
        for folder in (nobody, stranger):
            run("nbdinfo", "--size", f"{export.uri}?tls-certificates={folder}", check=False)
        run("nbdinfo", "--size", f"nbd://127.0.0.1:{port}/root", check=False)  # TLS was not asked for
        assert run("nbdinfo", "--size", good).strip() == str(GEOMETRY.size_bytes)
