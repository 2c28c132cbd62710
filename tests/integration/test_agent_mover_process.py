"""A mover process that does not end when it is told to, with time passing as the test says."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable

import pytest

from holdfast_agent.errors import Cancelled, MoverDied
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.service.mover_process import KILL_AFTER_S, TERMINATE_AFTER_S, MoverProcess
from holdfast_agent.wire import movers as pipe
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import BackupOrder, ReaderSpec
from lab import mover_child

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


def _mover(task: str, poller: Poller, states: list[MoverState]) -> MoverProcess:
    spec = ReaderSpec(task_id=task, secret=bytes(32), repository="/r")
    command = (sys.executable, "-P", mover_child.__file__)
    mover = MoverProcess("m", spec.task_id, poller, states.append, command)
    mover.set_up(pipe.MoverSetup(host=HOST, spec=spec))
    poller.turn_until(mover, lambda: mover.settled)
    assert mover.state.phase == "listening"
    return mover


def test_one_that_hangs_is_terminated_after_a_while() -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("hangs", poller, states)
    mover.stop("enough")
    mover.tick(time.monotonic())
    assert not mover.gone
    mover.tick(time.monotonic() + TERMINATE_AFTER_S)
    poller.turn_until(mover, lambda: mover.gone)
    assert states[-1].phase == "failed"
    assert states[-1].error is not None
    assert "SIGTERM" in states[-1].error.message


def test_one_that_ignores_everything_is_killed_with_its_whole_group() -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("children", poller, states)
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


def test_what_a_dead_mover_leaves_in_its_group_ends_with_it() -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("children", poller, states)
    child = os.pidfd_open(int(mover.endpoints[0]))
    try:
        os.kill(mover.pid, 9)
        poller.turn_until(mover, lambda: mover.gone)
        assert select.select([child], [], [], WAIT_S)[0]
    finally:
        os.close(child)


def test_an_order_larger_than_the_pipe_does_not_block() -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("plain", poller, states)
    extents = tuple(Extent(number << 32, 1) for number in range(500_000))
    order = BackupOrder(geometry=Geometry(1 << 60), disks=(), mode=ChangeMode.CBT, extents=extents)
    mover.begin(order)
    poller.turn_until(mover, lambda: mover.gone)
    assert [state.phase for state in states] == ["listening", "connected", "transferring", "done"]


def test_one_that_is_told_to_end_says_why() -> None:
    poller, states = Poller(), list[MoverState]()
    mover = _mover("plain", poller, states)
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
        MoverProcess("m", "t", Poller(), print, ("/none",))
