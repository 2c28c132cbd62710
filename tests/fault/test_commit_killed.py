"""The last act of a backup, in which its point is committed: whoever dies in it, and wherever, nothing is lost.

Each process is stopped at a named act, so that the worst moment lasts; then the agent or the session is killed.
Afterwards the catalogue and the repository must know the same points, each of them whole.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from holdfast_manager.catalog import Catalog
from lab.devices import fill_up, small_file_system
from lab.installation import Installation, installed
from lab.processes import stopped
from lab.services import catalogue
from lab.waiting import wait_until

MIB = 1 << 20
PATIENT = ("--retries", "2", "--retry-pause", "0.5")
DYING = Path(__file__).parents[1] / "lab" / "dying"

WRITTEN_DOWN = "backup write after 1"
ASKED = "agent commit before 1"
DURABLE = "agent commit after 1"
ANSWERED = "backup add before 1"
REMEMBERED = "backup add after 1"


class Fate(NamedTuple):
    """What happens at the act ``at``: the ``agent`` or the ``session`` is killed.

    ``back``: when the agent is there again: ``at once``, when the session has given the VM's attempt up (``late``), or
    after the session's end (``away``). ``result``: of the session, and ``points`` that it has made when all is settled.
    """

    at: str
    who: str
    back: str
    result: str
    points: int

    def __str__(self) -> str:
        return f"{self.who} at {self.at}, {self.back}".replace(" ", "-")


QUICK = (
    Fate(DURABLE, "agent", "late", "success", 1),
    Fate(DURABLE, "session", "", "failed", 1),
)
THE_OTHERS = (
    *(Fate(at, "agent", "at once", "success", 1) for at in (WRITTEN_DOWN, ASKED, DURABLE, ANSWERED, REMEMBERED)),
    *(Fate(at, "agent", "late", "success", 1) for at in (WRITTEN_DOWN, ASKED)),
    *(Fate(at, "agent", "away", "failed", 0) for at in (WRITTEN_DOWN, ASKED)),
    Fate(DURABLE, "agent", "away", "failed", 1),
    *(Fate(at, "agent", "away", "success", 1) for at in (ANSWERED, REMEMBERED)),
    Fate(WRITTEN_DOWN, "session", "", "failed", 0),
    *(Fate(at, "session", "", "failed", 1) for at in (ASKED, ANSWERED, REMEMBERED)),
)


class Stage:
    """A house whose processes stop at an act. Each fate has a VM and a job of its own. ``place``: of the repository."""

    def __init__(self, house: Installation, catalog: Catalog, place: Path) -> None:
        self.house, self.catalog, self.place = house, catalog, place
        self.acts = house.home / "acts"
        self.contents: dict[str, bytes] = {}
        self._number = 0

    def add_vm(self) -> None:
        """A new VM, and its job."""
        self._number += 1
        self.vm = f"vm{self._number}"
        image = self.house.vms / self.vm / "disk.raw"
        image.parent.mkdir()
        image.write_bytes(random.randbytes(2 * MIB))
        self.house.add_job(self.vm, *PATIENT, "--compression", "none", repository="main", include=self.vm)

    def begin(self, job: str, act: str) -> int:
        """Run a job; returns the number of its session when a process is stopped at ``act``."""
        self.acts.write_text("")
        hooked = {
            "PYTHONPATH": f"{DYING}:{self.house.environment['PYTHONPATH']}",
            "HOLDFAST_ACTS": str(self.acts),
            "HOLDFAST_STOPS_AT": act,
        }
        self.house.stop_agent()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in hooked.items():
                patch.setenv(name, value)
            self.house.start_agent()
        command = self.house.command("job", "run", job, "--detach")
        subprocess.run(command, stdin=subprocess.DEVNULL, env=self.house.environment | hooked, check=True)
        (session,) = self.catalog.sessions.living()
        wait_until(lambda: act in self.acts.read_text() and stopped(self._actor(act)), f"somebody at {act}")
        return session.id

    def _actor(self, act: str) -> int:
        """The process that is stopped at ``act``."""
        if act.startswith("agent "):
            assert self.house.agent is not None
            return self.house.agent.pid
        (session,) = self.catalog.sessions.living()
        assert session.process is not None
        return session.process.pid

    def go_on(self, act: str) -> None:
        os.kill(self._actor(act), signal.SIGCONT)

    def ended(self, session: int) -> Any:
        wait_until(lambda: not self.catalog.sessions.reap_dead() and not self.catalog.sessions.living(), "its end")
        return self.catalog.sessions.get(session)

    def given_up(self, session: int) -> bool:
        return any(event.kind == "VmAbandoned" for event in self.catalog.events.after(session, limit=1 << 20))

    def known(self) -> dict[str, tuple[Any, ...]]:
        """What the catalogue knows."""
        rows = self.catalog.points.list(limit=1 << 20)
        return {row.sid: (row.vm_name, row.session, row.stored_bytes, row.retained_until) for row in rows}

    def check(self, session: int, points: int) -> None:
        """After the next session, which settles what is left: the first has made so many ``points``, all is whole."""
        image = self.house.vms / self.vm / "disk.raw"
        before = image.read_bytes()
        image.write_bytes(random.randbytes(MIB) + before[MIB:])
        again = self.house.run_job(self.vm)
        assert again["result"] in ("success", "warning")
        (second,) = self.catalog.points.of_session(again["id"])
        first = self.catalog.points.of_session(session)
        assert len(first) == points
        for point, content in [*((each, before) for each in first), (second, image.read_bytes())]:
            to = self.house.out / point.sid
            self.house.restore_disk(self.vm, point.sid, to)
            assert to.read_bytes() == content
            to.unlink()
        known = self.known()
        self.house.holdfast("repository", "rescan", "main")
        assert self.known() == known, "the repository has the points that the catalogue knows, and no others"
        assert self.catalog.pending_points.left_behind("main") == ()
        assert not [*(self.place / "sessions").iterdir(), *(self.place / "tmp").iterdir()]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with installed(tmp_path_factory.mktemp("house")) as house, catalogue(house) as catalog:
        house.add_repository("main", encrypted=True)
        yield Stage(house, catalog, house.store / "main")


@pytest.mark.parametrize("fate", QUICK, ids=str)
def test_a_commit_that_is_broken_off_loses_nothing(stage: Stage, fate: Fate) -> None:
    _meet(stage, fate)


@pytest.mark.soak
@pytest.mark.parametrize("fate", THE_OTHERS, ids=str)
def test_a_commit_may_be_broken_off_anywhere(stage: Stage, fate: Fate) -> None:
    _meet(stage, fate)


@pytest.mark.soak
def test_a_copy_whose_answer_was_lost_is_not_made_twice(stage: Stage) -> None:
    stage.add_vm()
    (original,) = stage.house.run_job(stage.vm)["points"]
    stage.house.add_repository("second", encrypted=True)
    stage.house.holdfast("job", "create", "copies", "--copy-from", "main", "--repository", "second", *PATIENT)
    session = stage.begin("copies", DURABLE)
    _kill_agent(stage, Fate(DURABLE, "agent", "late", "success", 1), session)
    assert stage.ended(session).result == "success"
    stage.house.holdfast("repository", "rescan", "second")
    copies = stage.catalog.points.list(repository="second")
    assert [row.origin.sid for row in copies if row.origin is not None].count(original["sid"]) == 1
    assert len(copies) == len({row.origin for row in copies})


def test_a_disk_that_is_full_when_the_point_is_to_be_written_keeps_none(tmp_path: Path) -> None:
    with installed(tmp_path) as house, small_file_system(house.store, 64 * MIB) as disk, catalogue(house) as catalog:
        house.holdfast("repository", "add", "main", "--agent", "local", "--path", disk / "main", "--create",
                       "--no-encryption")  # fmt: skip
        stage = Stage(house, catalog, disk / "main")
        stage.add_vm()
        session = stage.begin(stage.vm, ASKED)
        fill_up(disk / "somebody else's")
        stage.go_on(ASKED)
        assert stage.ended(session).result == "failed"
        assert house.holdfast("session", "show", str(session))["error"]["code"] == "repository_full"
        assert stage.catalog.points.of_session(session) == ()
        (disk / "somebody else's").unlink()
        stage.check(session, 0)


def _meet(stage: Stage, fate: Fate) -> None:
    stage.add_vm()
    session = stage.begin(stage.vm, fate.at)
    if fate.who == "agent":
        _kill_agent(stage, fate, session)
    else:
        stage.house.kill_session(session)
        if fate.at.startswith("agent "):
            stage.go_on(fate.at)
    assert stage.ended(session).result == fate.result
    if fate.who == "session":  # until its lease runs out, the agent keeps what nobody can commit any more
        wait_until(lambda: not any((stage.place / "sessions").iterdir()), "the end of the dead session's lease")
    if fate.back == "away":
        stage.house.start_agent()
    elif fate.back:
        assert len(stage.catalog.points.of_session(session)) == fate.points, "it is known at once"
    stage.check(session, fate.points)
    if fate.at == DURABLE:  # a further attempt finds its blocks in the repository
        (point,) = stage.catalog.points.of_session(session)
        assert point.stored_bytes >= 2 * MIB, "what only its session knew is remembered"


def _kill_agent(stage: Stage, fate: Fate, session: int) -> None:
    stage.house.kill_agent()
    if not fate.at.startswith("agent "):
        stage.go_on(fate.at)
    if fate.back == "late":
        wait_until(lambda: stage.given_up(session), "the attempt to be given up")
    if fate.back != "away":
        stage.house.start_agent()
