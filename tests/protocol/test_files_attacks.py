"""What a reader of file systems that was taken over can do to its host: nothing."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import FilesUnreadable, HoldfastError, MalformedMessage
from holdfast_agent.files.answer import Answer
from holdfast_agent.files.confine import NOBODY, confine
from holdfast_agent.files.frames import Complete, Data, Found, Frame, Inlet, Volumes
from holdfast_agent.wire.files import FetchFiles, FileEntry, FileKind, FindFiles, ListVolumes
from lab import file_trees as trees
from lab.movers import Mover, Site
from lab.nbd_peer import Peer, Request, serving

FILE, FOLDER, LINK = FileKind.FILE, FileKind.FOLDER, FileKind.LINK


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def answer(site: Site) -> Answer:
    return Answer(FetchFiles(paths=(b"/",), target=str(site.folder / "disks" / "out")), site.host())


def outside(site: Site) -> list[Path]:
    return sorted(path for path in site.folder.rglob("*") if "disks/out" not in str(path))


@pytest.mark.parametrize(
    "path", [b"../up", b"/absolute", b"a/../../b", b".", b"a//b", b"a/", b"nul\0", b"x" * 256], ids=repr
)
def test_no_path_leads_out_of_the_target(path: bytes, answer: Answer, site: Site) -> None:
    before = outside(site)
    with pytest.raises(MalformedMessage, match="leads elsewhere"):
        answer.take(Found(FileEntry(path, FILE)))
    answer.close()
    assert outside(site) == before


def test_no_link_leads_out_of_the_target(answer: Answer, site: Site) -> None:
    """A link is restored as it stands, and nothing is ever written or linked through it."""
    victim = site.folder / "victim"
    victim.mkdir()
    (victim / "secret").write_text("secret")
    answer.take(Found(FileEntry(b"door", LINK, target=str(victim).encode())))
    answer.take(Found(FileEntry(b"door/planted", FILE, size=1)))
    answer.take(Data(0, b"x"))
    answer.take(Complete())
    answer.take(Found(FileEntry(b"stolen", FILE), same_as=b"door/secret"))
    answer.take(Found(FileEntry(b"door", FOLDER)))
    answer.end(more=False)
    assert sorted(path.name for path in victim.iterdir()) == ["secret"]
    out = site.folder / "disks" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["door"]
    assert answer.result().complained == 3


@pytest.mark.parametrize(
    "frames",
    [
        [Found(FileEntry(b"a", FILE, size=1)), Data(1, b"x")],
        [Found(FileEntry(b"a", FILE, size=1)), Data(1 << 62, b"x")],
        [Volumes(())],
        [Found(FileEntry(b"a", LINK, target=b"t", attributes=((b"user.a\0b", b""),)))],
        [Found(FileEntry(b"a", LINK, target=b"t", attributes=((b"system.nfs4_acl", b""),)))],
    ],
    ids=["beyond the end", "far beyond the end", "out of place", "a name cut short", "a foreign attribute"],
)
def test_nonsense_ends_it_and_leaves_nothing(frames: list[Frame], answer: Answer, site: Site) -> None:
    with pytest.raises(MalformedMessage):
        for frame in frames:
            answer.take(frame)
    answer.close()
    assert not (site.folder / "disks" / "out").exists()


def test_what_cannot_be_set_is_told_once(answer: Answer, site: Site) -> None:
    """No link can have an attribute of a user's."""
    for number in range(5):
        attributes = ((b"user.%d" % number, b"value"),)
        answer.take(Found(FileEntry(b"%d" % number, LINK, target=b"t", attributes=attributes)))
    answer.end(more=False)
    (told,) = answer.result().complaints
    assert "its attribute user.0 was left out, as others may be" in told
    assert answer.result().links == 5


def test_an_answer_is_bounded(site: Site) -> None:
    answer = Answer(FindFiles(path=b"/", pattern=b"*"), site.host())
    with pytest.raises(MalformedMessage, match="more than was asked for"):
        for _ in range(1000):
            answer.take(Found(FileEntry(b"/" + b"x" * 4000, FILE)))


@pytest.mark.parametrize("body", [b"\xff\xff\xff\xff", b"\x04\0\0\0abcd", b"\x04\0\0\0ab"], ids=repr)
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, body)
    os.close(writing)
    with pytest.raises(MalformedMessage):
        Inlet(reading).take()
    os.close(reading)


def forbidden(*attempts: Callable[[], object]) -> str:
    """Confine this process, try each; what succeeded."""
    confine(tempfile.mkdtemp(), 1 << 30, 60)
    succeeded = []
    for number, attempt in enumerate(attempts):
        try:
            attempt()
        except OSError:
            continue
        succeeded.append(str(number))
    return ",".join(succeeded)


def in_a_child(work: Callable[[], str]) -> tuple[int, str]:
    """(status, what it returned) of a fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    told = b""
    while chunk := os.read(reading, 1000):
        told += chunk
    os.close(reading)
    return os.waitpid(child, 0)[1], told.decode()


def test_a_confined_process_can_neither_open_nor_connect_nor_start_nor_kill() -> None:
    parent = os.getpid()
    status, told = in_a_child(
        lambda: (
            "succeeded: "
            + forbidden(
                lambda: os.open("/proc/self/mem", os.O_RDONLY),
                lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
                socket.socket,
                socket.socketpair,
                os.fork,
                lambda: os.execv(sys.executable, [sys.executable]),  # noqa: S606 - it must not come to that
                lambda: os.kill(parent, signal.SIGKILL),
                lambda: Path("/etc/hostname").unlink(),
                lambda: Path("/etc").stat(),
                lambda: os.setuid(0),
                lambda: os.chroot("/"),
                lambda: os.memfd_create("x"),
                lambda: os.dup(1),
            )
        )
    )
    assert (status, told) == (0, "succeeded: ")


def test_a_confined_process_gets_only_so_much_memory() -> None:
    def work() -> str:
        forbidden()
        try:
            return str(len(bytearray(2 << 30)))
        except MemoryError:
            return "no memory"

    assert in_a_child(work) == (0, "no memory")


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "fat"])
def test_damaged_file_systems_end_in_an_answer(kind: str, site: Site, tmp_path: Path) -> None:
    """Bytes of the metadata turned over: the host's processes end with a typed answer, whatever the library does."""
    content = tmp_path / "content"
    trees.furnish(content)
    makers = {
        "ext4": lambda image: trees.make_ext4(image, content),
        "btrfs": lambda image: trees.make_btrfs(image, content),
        "fat": lambda image: trees.make_fat(image, content, 16, 64 << 20),
    }
    whole = makers[kind](tmp_path / "image").read_bytes()
    rng = random.Random(kind)
    used = [at for at in range(0, len(whole), 4096) if whole[at : at + 4096].strip(b"\0")]
    images = {}
    for turn in range(2):
        damaged = bytearray(whole)
        for _ in range(400):
            damaged[rng.choice(used[: len(used) // 3]) + rng.randrange(4096)] ^= rng.randrange(1, 256)
        images[f"disk{turn}"] = tmp_path / f"damaged{turn}"
        images[f"disk{turn}"].write_bytes(damaged)
    with trees.served(site, images) as disks:
        for number, disk in enumerate(disks):
            out = site.folder / "disks" / f"out{number}"
            try:
                trees.look(site, [disk], FetchFiles(paths=(b"/",), target=str(out)))
            except HoldfastError as error:
                assert error.code in ("files_unreadable", "not_found", "internal_error")
    assert not list((site.folder / "disks").rglob(".holdfast-*"))


@contextlib.contextmanager
def reading(site: Site) -> Iterator[tuple[Mover, int]]:
    """A look whose disk does not answer, and its confined process, which waits for that."""
    asked, over = threading.Event(), threading.Event()

    def answer(_request: Request) -> Iterable[bytes]:
        asked.set()
        over.wait()
        return ()

    (site.folder / "exports" / "one").mkdir(parents=True)
    with serving(Peer(site.folder / "exports" / "one" / "nbd.sock", answer=answer)):
        with trees.looking(site, ["root.img"], ListVolumes()) as mover:
            assert asked.wait(30)
            yield mover, int(Path(f"/proc/{mover.process.pid}/task/{mover.process.pid}/children").read_text())
        over.set()


def test_a_reader_dies_with_its_process(site: Site) -> None:
    with reading(site) as (mover, reader):
        gone = os.pidfd_open(reader)
        mover.process.kill()
        assert select.select([gone], [], [], 30)[0]
        os.close(gone)


def test_a_reader_that_dies_is_told(site: Site) -> None:
    """As one does that a file system made ask for more memory than it has. Until then it has no rights."""
    with reading(site) as (mover, reader):
        status = Path(f"/proc/{reader}/status").read_text().split("\n")
        assert {"NoNewPrivs:\t1", "Seccomp:\t2"} <= set(status)
        if os.geteuid() == 0:
            assert {"Uid:" + f"\t{NOBODY}" * 4, "Gid:" + f"\t{NOBODY}" * 4, "CapEff:\t" + "0" * 16} <= set(status)
        os.kill(reader, signal.SIGKILL)
        assert isinstance(mover.failure(), FilesUnreadable)


def test_no_package_no_reading(site: Site) -> None:
    """The agent runs without the libraries; what needs them says so."""
    script = (
        "import sys; sys.modules['dissect'] = None; sys.modules['dissect.util'] = None\n"
        "from holdfast_agent.files.reader import _read\n"
        "print(_read(None, [], 'host', '/', None, None).code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "extra_missing\n"
