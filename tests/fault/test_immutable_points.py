"""``chattr +i`` by the helper: an agent that was taken over removes nothing that must be kept, whatever it says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import (
    HoldfastError,
    ImmutableUnavailable,
    ImmutableUnsupported,
    MalformedMessage,
    NotAuthorised,
    RepositoryDenied,
    UsageError,
)
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.points import Point
from holdfast_agent.repository import layout
from holdfast_agent.repository.attributes import is_immutable, set_immutable
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.immutability import Immutability
from holdfast_agent.repository.repository import Repository
from holdfast_agent.service.immutable_helper import Helper, Ledger
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.immutability import Answer, Protect, Release
from lab import repositories as lab
from lab.agents import start_agent
from lab.devices import FILE_SYSTEMS, small_file_system
from lab.users import NOBODY, as_nobody, as_root, open_folder
from lab.waiting import wait_until

GEOMETRY = Geometry(10 * lab.BLOCK, lab.LOG2)
FULL = {number: lab.block(number) for number in range(10)}
CHANGE = {number: lab.block(("changed", number)) for number in range(9)}
DAY_S = 86400.0
MANAGER = KeyPair.generate()


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A repository that belongs to nobody, and the helper of root for it; both see one clock."""

    def __init__(self, folder: Path, mounted: Path) -> None:
        os.chown(mounted, NOBODY, NOBODY)
        self.folder = mounted
        self.root = mounted / "repository"
        self.clock = Clock()
        (folder / "state").mkdir(mode=0o700)
        self.ledger = Ledger(folder / "state" / "ledger.sqlite")
        self.helper = Helper([mounted], NOBODY, self.ledger, self.clock)
        with as_nobody():
            lab.create(self.root)
            self.repository = self.open()

    def open(self) -> Repository:
        return Repository.open(self.root, self.folder / "cache", clock=self.clock)

    def back_up(self, blocks: dict[int, bytes], days: float = 0.0, base: Point | None = None) -> Point:
        with as_nobody():
            point = lab.backup(self.repository, blocks, GEOMETRY, base)
            if days:
                self.repository.retain(point.sid, until=self.clock() + days * DAY_S)
        return point

    def ask(self, request: Protect | Release) -> Answer:
        return self.helper.handle(msgspec.json.encode(request))

    def protect(self, point: Point) -> None:
        """As the agent asks for it."""
        self.immutability.protect(self.repository, point.sid)

    @property
    def immutability(self) -> Immutability:
        scene = self

        class Direct(Immutability):
            def _ask(self, request: Protect | Release) -> Answer:
                with as_root():
                    return scene.ask(request)

        return Direct("in this process", self.root)

    def packs(self) -> dict[str, Path]:
        return {name.rpartition("/")[2]: self.root / name for name in self.repository.store.names(layout.PACKS)}

    def marked(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file() and marked(path)}

    def close(self) -> None:
        self.repository.close()
        self.ledger.close()
        for path in self.root.parent.rglob("*"):
            if path.is_file() and not path.is_symlink():
                mark(path, False)


def marked(path: Path) -> bool:
    with path.open("rb") as file:
        return is_immutable(file.fileno())


def mark(path: Path, immutable: bool) -> None:
    with path.open("rb") as file:
        set_immutable(file.fileno(), immutable)


@pytest.fixture(params=FILE_SYSTEMS)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with open_folder() as folder, small_file_system(folder, kind=request.param) as mounted:
        made = Scene(folder, mounted)
        yield made
        made.close()


def test_what_must_be_kept_cannot_be_removed_by_its_owner(scene: Scene) -> None:
    other = scene.back_up({0: lab.block("other")})
    point = scene.back_up(FULL, days=7)
    scene.protect(point)
    names = scene.marked()
    packs = {str(path.relative_to(scene.root)) for name, path in scene.packs().items() if name.startswith(point.sid)}
    assert names == packs | {layout.point_object(point.sid), f"{layout.RETENTION}/{point.sid}-1"}
    with as_nobody():
        for path in map(scene.root.__truediv__, names):
            with pytest.raises(PermissionError):
                path.unlink()
            with pytest.raises(PermissionError):
                path.rename(path.with_name("x"))
            with pytest.raises(PermissionError):
                path.write_bytes(b"")
        (scene.root / layout.point_object(other.sid)).unlink()
        assert lab.restore(scene.repository, point) == FULL


def test_nothing_is_let_go_before_its_time_and_all_of_it_after(scene: Scene) -> None:
    point = scene.back_up(FULL, days=7)
    scene.protect(point)
    packs = sorted(scene.packs())
    assert scene.ask(Release(str(scene.root), tuple(packs))).kept == tuple(packs)
    scene.clock.now += 6 * DAY_S
    with as_nobody():
        scene.repository.retain(point.sid, until=scene.clock() + 7 * DAY_S)  # extended
    scene.protect(point)
    scene.clock.now += 2 * DAY_S
    assert scene.ask(Release(str(scene.root), tuple(packs))).kept == tuple(packs), "the time was extended"
    scene.clock.now += 6 * DAY_S
    assert scene.ask(Release(str(scene.root), tuple(packs))).kept == ()
    assert not any(map(marked, scene.packs().values()))
    with as_nobody():
        for path in scene.packs().values():
            path.unlink()


def test_the_collector_leaves_what_is_kept_and_takes_it_later(scene: Scene) -> None:
    """A pack that an immutable point needs is live; one that it needed while it was immutable stays until then."""
    first = scene.back_up(FULL, days=7)
    scene.protect(first)
    scene.back_up(CHANGE, base=first)
    kept = set(scene.packs())
    with as_nobody():
        collect(scene.repository, release=scene.immutability.release)
    assert kept <= set(scene.packs())
    scene.clock.now += 8 * DAY_S
    with as_nobody():
        scene.repository.tombstone(first.sid)
        found = collect(scene.repository, release=scene.immutability.release)
        assert found.swept_packs
        assert {entry.sid for entry in scene.repository.points()} != {first.sid}
    assert not kept <= set(scene.packs())


def test_packs_that_may_not_go_are_compacted_once_and_swept_in_time(scene: Scene) -> None:
    first = scene.back_up(FULL)
    second = scene.back_up({number: CHANGE[number] for number in range(6)}, days=7, base=first)
    scene.protect(second)
    old = {name for name in scene.packs() if name.startswith(first.sid) and "-d" in name}
    moved = []
    with as_nobody():
        scene.repository.tombstone(first.sid)
        for _ in range(3):
            moved.append(collect(scene.repository, release=scene.immutability.release).moved_bytes)
            assert old <= set(scene.packs())
        assert moved[0] > 0 and moved[1:] == [0, 0], "what is live was copied out of the sparse pack once"
    scene.clock.now += 8 * DAY_S
    with as_nobody():
        assert collect(scene.repository, release=scene.immutability.release).swept_packs
        assert lab.restore(scene.repository, second) == FULL | {number: CHANGE[number] for number in range(6)}
    assert not old & set(scene.packs())


def test_a_dry_run_counts_only_what_may_go_and_lets_nothing_go(scene: Scene) -> None:
    free = scene.back_up({0: lab.block("free")})
    kept = scene.back_up(FULL)
    later = scene.back_up({number: CHANGE[number] for number in range(6)}, days=7, base=kept)
    scene.protect(later)
    marked_before = scene.marked()

    def would_release(packs: list[str]) -> list[str]:
        return scene.immutability.release(packs, dry_run=True)

    with as_nobody():
        scene.repository.tombstone(kept.sid)
        scene.repository.tombstone(free.sid)
        dry = collect(scene.repository, dry_run=True, release=would_release)
        assert scene.marked() == marked_before
        real = collect(scene.repository, release=scene.immutability.release)
        assert dry.swept_packs == real.swept_packs > 0
        assert dry.freed_bytes == max(0, real.freed_bytes - real.moved_bytes)
        scene.clock.now += 8 * DAY_S
        everything = collect(scene.repository, dry_run=True, release=would_release)
        assert everything.swept_packs > 0 and everything.freed_bytes > 0
        assert scene.marked() >= {name for name in marked_before if "packs" in name}, "a dry run lets nothing go"
        assert collect(scene.repository, release=scene.immutability.release).swept_packs == everything.swept_packs


def test_a_collection_completes_what_was_cut_off(scene: Scene) -> None:
    damaged = scene.back_up({0: lab.block("damaged")}, days=7)
    for pack in list(scene.packs().values()):
        pack.unlink()
    point = scene.back_up(FULL, days=7)
    scene.ask(Protect(str(scene.root), point.sid, (), last=False))  # cut off before the packs and the point
    assert layout.point_object(point.sid) not in scene.marked()
    scene.immutability.complete(scene.repository)
    assert layout.point_object(point.sid) in scene.marked()
    assert layout.point_object(damaged.sid) not in scene.marked(), "what is lost cannot be kept"
    assert all(map(marked, scene.packs().values()))


def test_an_agent_that_was_taken_over_finds_no_way_round(scene: Scene) -> None:
    point = scene.back_up(FULL, days=7)
    scene.protect(point)
    pack, path = next(iter(sorted(scene.packs().items())))
    fake = scene.folder / "fake"
    with as_nobody():  # a repository that knows of no retention, with the folder of the pack moved into it
        lab.create(fake)
        (fake / path.parent.relative_to(scene.root)).rmdir()
        path.parent.rename(fake / path.parent.relative_to(scene.root))
    assert scene.ask(Release(str(fake), (pack,))).kept == (pack,)
    moved = fake / path.relative_to(scene.root)
    assert marked(moved)
    with as_nobody():
        moved.parent.rename(path.parent)
        (scene.folder / "link").symlink_to(scene.root)
    denied = [str(scene.folder / "link"), str(scene.folder.parent), "/etc", f"{scene.root}/../repository", "relative"]
    denied.append(f"{scene.root}\0")
    for place in denied:
        with pytest.raises(RepositoryDenied):
            scene.ask(Release(place, (pack,)))
    for line in (b"{}", b"[]", b"\xff", b'{"type":"Clear"}', msgspec.json.encode({"type": "Release", "packs": 1})):
        with pytest.raises(MalformedMessage):
            scene.helper.handle(line)
    for name in ("../../points/x", "x", f"{point.sid}-1-d1/../x"):
        with pytest.raises(HoldfastError):
            scene.ask(Release(str(scene.root), (name,)))
    assert path.exists() and marked(path)


def test_what_somebody_else_marked_stays_and_what_nobody_asked_for_is_refused(scene: Scene) -> None:
    point = scene.back_up(FULL)
    with pytest.raises(UsageError, match="nothing says"):
        scene.ask(Protect(str(scene.root), point.sid, tuple(scene.packs())))
    assert scene.marked() == set()
    pack, path = next(iter(scene.packs().items()))
    mark(path, True)
    assert scene.ask(Release(str(scene.root), (pack,))).kept == (pack,)
    with as_nobody():
        assert collect(scene.repository, release=scene.immutability.release).swept_packs == 0


def test_a_file_system_without_the_attribute_is_told() -> None:
    with open_folder() as folder:
        subprocess.run(["mount", "-t", "ramfs", "none", folder], check=True)
        try:
            (folder / "outside").mkdir()
            inside = folder / "inside"
            inside.mkdir()
            made = Scene(folder / "outside", inside)
            point = made.back_up(FULL, days=7)
            with pytest.raises(ImmutableUnsupported, match=str(made.root)):
                made.protect(point)
            assert made.immutability.release(list(made.packs())) == list(made.packs())
            made.repository.close()
            made.ledger.close()
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_program_answers_its_agent_and_nobody_else() -> None:
    with open_folder() as folder, small_file_system(folder) as mounted:
        (folder / "run").mkdir()
        (folder / "run").chmod(0o755)
        made = Scene(folder, mounted)
        point = made.back_up(FULL)
        with as_nobody():
            made.repository.retain(point.sid, until=time.time() + DAY_S)
        socket_file = folder / "run" / "socket"
        command = [
            sys.executable, "-c", "from holdfast_agent.cli.immutable import main; main()", "--user", "nobody",
            "--socket", str(socket_file), "--state", str(folder / "state"), str(mounted),
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
            try:
                assert program.stderr is not None and "ready" in program.stderr.readline()
                immutability = Immutability(str(socket_file), made.root)
                with pytest.raises(NotAuthorised):
                    immutability.release(list(made.packs()))
                with socket.socket(socket.AF_UNIX) as silent:
                    silent.connect(str(socket_file))  # and says nothing, and is gone
                made.clock.now = time.time()
                with as_nobody():
                    immutability.protect(made.repository, point.sid)
                    assert immutability.release(list(made.packs())) == []
                assert all(map(marked, made.packs().values()))
            finally:
                program.kill()
        with as_nobody(), pytest.raises(ImmutableUnavailable):
            immutability.release(list(made.packs()))
        made.close()


def test_an_agent_has_its_points_marked_when_they_are_committed_or_protected() -> None:
    """The agent of the test is root, which the program refuses; so the helper runs here, for root."""
    with open_folder() as folder, small_file_system(folder) as mounted:
        (folder / "state").mkdir()
        (mounted / "store").mkdir()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(folder / "socket"))
        listening.listen()
        ledger_file = folder / "state" / "ledger"

        def serve() -> None:
            Helper([mounted], os.geteuid(), Ledger(ledger_file), time.time).serve(listening)

        threading.Thread(target=serve, daemon=True).start()
        with (
            start_agent(
                folder / "agent",
                authorised=[MANAGER.public],
                repository_paths=[mounted / "store"],
                immutable_helper=str(folder / "socket"),
            ) as agent,
            agent.client(MANAGER) as client,
        ):
            path = mounted / "store" / "main"
            lab.create(path)
            client.call(m.RenewLease(lease="l", ttl_s=60))
            sid = protected_point(agent.settings.cache_dir, path)
            client.call(m.RetainPoint(repository=str(path), sid=sid, until=time.time() + DAY_S))
            wait_until(lambda: marked(path / layout.point_object(sid)), "the point to be marked")
        for found in path.rglob("*"):
            if found.is_file():
                mark(found, False)


def protected_point(cache: Path, path: Path) -> Sid:
    repository = Repository.open(path, cache)
    sid = new_sid()
    lab.backup(repository, FULL, GEOMETRY, sid=sid)
    repository.close()
    return sid
