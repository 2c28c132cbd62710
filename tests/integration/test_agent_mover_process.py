"""A mover process that does not end when it is told to, with time passing as the test says."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast_agent.errors import Cancelled, MoverDied
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.service.mover_birth import Birth, new_program
from holdfast_agent.service.mover_process import KILL_AFTER_S, TERMINATE_AFTER_S, MoverProcess
from holdfast_agent.service.nursery import IDLE_S, Nursery
from holdfast_agent.wire import movers as pipe
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import BackupOrder, ReaderSpec
from lab.mover_nursery import CHILD, TEMPLATE
from lab.processes import alive, children

WAIT_S = 60.0
HOST = pipe.MoverHost(
    agent="a",
    disk_paths=(),
    repository_paths=(),
    listen_address="127.0.0.1",
    advertised_addresses=("127.0.0.1",),
    port_range=(0, 0),
    cache_dir="/",
    runtime_dir="/",
    workers=1,
)


class Poller:
    """The loop's poller, reduced to what a mover needs."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def watch(self, fd: int, *, readable: bool = True, writable: bool = False) -> None:
        mask = (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)
        if mask:
            self._poll.register(fd, mask)
        else:
            self.unwatch(fd)

    def unwatch(self, fd: int) -> None:
        try:
            self._poll.unregister(fd)
        except KeyError:
            return

    def turn_until(self, mover: MoverProcess, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, mover.state
            for fd, _ in self._poll.poll(100):
                mover.ready(fd)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """One that is ready, of movers that live as ``lab.mover_child``."""
    nursery = Nursery(CHILD, TEMPLATE)
    try:
        nursery.open()
        assert nursery.ready(WAIT_S)
        yield nursery
    finally:
        nursery.close()


@pytest.fixture(params=["program", "forked"])
def birth(request: pytest.FixtureRequest) -> Birth:
    """Whichever way a mover came to be, it is treated alike."""
    if request.param == "program":
        return partial(new_program, CHILD)
    nursery: Nursery = request.getfixturevalue("nursery")
    return nursery.birth


def _mover(task: str, poller: Poller, states: list[MoverState], birth: Birth, held: int | None = None) -> MoverProcess:
    spec = ReaderSpec(task_id=task, secret=bytes(32), repository="/r")
    mover = MoverProcess("m", spec.task_id, poller, states.append, birth, held)
    mover.set_up(pipe.MoverSetup(host=HOST, spec=spec))
    poller.turn_until(mover, lambda: mover.settled)
    assert mover.state.phase == "listening"
    return mover


def test_one_that_hangs_is_terminated_after_a_while(birth: Birth) -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("hangs", poller, states, birth)
    mover.stop("enough")
    mover.tick(time.monotonic())
    assert not mover.gone
    mover.tick(time.monotonic() + TERMINATE_AFTER_S)
    poller.turn_until(mover, lambda: mover.gone)
    assert states[-1].phase == "failed"
    assert states[-1].error is not None
    assert "SIGTERM" in states[-1].error.message


def test_one_that_ignores_everything_is_killed_with_its_whole_group(birth: Birth) -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("children", poller, states, birth)
    child = os.pidfd_open(int(mover.endpoints[0]))
    try:
        mover.stop("enough")
        mover.stop("again")
        mover.tick(time.monotonic() + TERMINATE_AFTER_S)
        assert not mover.gone
        mover.tick(time.monotonic() + KILL_AFTER_S)
        poller.turn_until(mover, lambda: mover.gone)
        assert select.select([child], [], [], WAIT_S)[0]
    finally:
        os.close(child)
    assert states[-1].error is not None
    assert states[-1].error.code == MoverDied.code


def test_what_a_dead_mover_leaves_in_its_group_ends_with_it(birth: Birth) -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("children", poller, states, birth)
    child = os.pidfd_open(int(mover.endpoints[0]))
    try:
        os.kill(mover.pid, 9)
        poller.turn_until(mover, lambda: mover.gone)
        assert select.select([child], [], [], WAIT_S)[0]
    finally:
        os.close(child)


def test_an_order_larger_than_the_pipe_does_not_block(birth: Birth) -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("plain", poller, states, birth)
    extents = tuple(Extent(number << 32, 1) for number in range(500_000))
    order = BackupOrder(geometry=Geometry(1 << 60), disks=(), mode=ChangeMode.CBT, extents=extents)
    mover.begin(order)
    poller.turn_until(mover, lambda: mover.gone)
    assert [state.phase for state in states] == ["listening", "connected", "transferring", "done"]


def test_one_that_is_told_to_end_says_why(birth: Birth) -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("plain", poller, states, birth)
    ended: list[str] = []
    mover.when_gone(lambda: ended.append("then"))
    mover.stop("the window closes")
    poller.turn_until(mover, lambda: mover.gone)
    mover.when_gone(lambda: ended.append("now"))
    assert ended == ["then", "now"]
    assert states[-1].error is not None
    assert states[-1].error.code == Cancelled.code
    assert "the window closes" in states[-1].error.message
    mover.stop("again")


def test_a_program_that_cannot_be_started() -> None:
    with pytest.raises(FileNotFoundError):
        MoverProcess("m", "t", Poller(), print, partial(new_program, ("/none",)))


def _facts(mover: MoverProcess, poller: Poller) -> dict[str, Any]:
    mover.begin(BackupOrder(geometry=Geometry(4096), disks=("file:/x",), mode=ChangeMode.FULL))
    poller.turn_until(mover, lambda: mover.gone)
    assert mover.state.result is not None
    facts: dict[str, Any] = json.loads(mover.state.result.used_disk)
    return facts


def test_forked_movers_share_neither_descriptors_nor_random_numbers(nursery: Nursery, tmp_path: Path) -> None:
    poller, found = Poller(), list[dict[str, Any]]()
    with (tmp_path / "lock").open("w") as lock:
        movers = [
            _mover("facts", poller, [], nursery.birth, held) for held in (lock.fileno(), lock.fileno(), None, None)
        ]
        assert len({mover.pid for mover in movers}) == len(movers)
        found += [_facts(mover, poller) for mover in movers]
    assert [facts["fds"] for facts in found] == [[0, 1, 2, 3]] * 2 + [[0, 1, 2]] * 2
    for numbers in zip(*(facts["random"] for facts in found), strict=True):
        assert len(set(numbers)) == len(found)
    for facts in found:
        assert facts["leads_group"] and facts["cwd"] == "/" and "MALLOC_TOP_PAD_" in facts["env"]


def test_the_lock_that_a_forked_mover_holds_is_free_when_it_ends(nursery: Nursery, tmp_path: Path) -> None:
    poller, states = Poller(), list[MoverState]()
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mover = _mover("plain", poller, states, nursery.birth, lock.fileno())
    with (tmp_path / "lock").open("w") as again:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mover.stop("enough")
        poller.turn_until(mover, lambda: mover.gone)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_movers_need_their_template_no_more(nursery: Nursery) -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("plain", poller, states, nursery.birth)
    (template,) = (child for child in children(os.getpid(), "mover_nursery") if child != mover.pid)
    gone = os.pidfd_open(template)
    os.kill(template, signal.SIGKILL)
    assert select.select([gone], [], [], WAIT_S)[0]
    os.close(gone)
    later = _mover("plain", poller, [], nursery.birth)  # as a program
    assert "mover_child" in Path(f"/proc/{later.pid}/cmdline").read_text()
    nursery.tick()
    assert nursery.ready(WAIT_S)  # there is a new template
    assert alive(mover.pid)
    for each in (mover, later):
        each.begin(BackupOrder(geometry=Geometry(4096), disks=("file:/x",), mode=ChangeMode.FULL))
        poller.turn_until(each, lambda each=each: each.gone)  # type: ignore[misc]
        assert each.state.phase == "done"


def test_a_template_that_hangs_is_killed_and_nobody_waits_for_it_again(nursery: Nursery) -> None:
    poller = Poller()
    (template,) = children(os.getpid(), "mover_nursery")
    os.kill(template, signal.SIGSTOP)
    mover = _mover("plain", poller, [], nursery.birth)
    assert "mover_child" in Path(f"/proc/{mover.pid}/cmdline").read_text()
    assert not alive(template)
    mover.stop("enough")
    poller.turn_until(mover, lambda: mover.gone)


def test_an_idle_agent_keeps_no_template(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    nursery.tick()
    assert nursery.ready()
    late = time.monotonic() + IDLE_S
    monkeypatch.setattr(time, "monotonic", lambda: late + 1)
    nursery.tick()
    assert children(os.getpid(), "mover_nursery") == []
