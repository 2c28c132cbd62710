"""The loop that makes a state machine act: takes events, asks the machine, carries out what it decides.

One thread (the caller's) owns the machine. Instructions run in a bounded pool of workers; whatever happens comes back
into one inbox. Nothing here knows what a backup is.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from holdfast_agent.errors import HoldfastError, InternalError

from .events import CancelRequested, Event, RetryDue, SessionStarted, VmRetryDue
from .instructions import EndSession, Instruction, PauseTask, PauseVm, TaskInstruction, VmInstruction
from .recorder import Recorder

log = logging.getLogger(__name__)

_WORKERS = 16
"""Instructions at once. They wait for agents and hypervisors nearly all of their time; the data moves elsewhere."""
_GATHER_S = 0.1
"""What happens within this time is written down together: a commit waits for the disk as long as a step takes."""


class Machine(Protocol):
    """A pure state machine of a session."""

    def handle(self, event: Event) -> list[Instruction]: ...


class Actions(Protocol):
    """What a kind of session does for its instructions."""

    def perform(self, instruction: Instruction) -> Event | None:
        """Carry out ``instruction`` in a worker thread; the event that answers it, if any does at once."""
        ...

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        """The event that tells the machine that ``instruction`` failed."""
        ...

    def tick(self) -> None:
        """Called in the driver's thread about once a poll interval."""
        ...


@dataclass(frozen=True)
class _Told:
    event: Event
    took_s: float | None = None


def lane_of(instruction: Instruction) -> Hashable:
    """Instructions of one lane are carried out one after the other, in the order in which they were given.

    Each task and each VM is a lane: a stop must find what an earlier instruction started, not overtake it.
    """
    match instruction:
        case TaskInstruction():
            return instruction.task
        case VmInstruction():
            return instruction.vm
    return None


class Driver:
    """Runs one session from SessionStarted to EndSession.

    ``post`` and ``call_soon`` may be called from any thread, everything else belongs to the thread that calls ``run``.
    """

    def __init__(self, recorder: Recorder, stop_requested: Callable[[], str], poll_s: float) -> None:
        self._recorder = recorder
        self._stop_requested = stop_requested
        self._poll_s = poll_s
        self._inbox: queue.SimpleQueue[_Told | Callable[[], None]] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self._lanes: dict[Hashable, deque[Instruction]] = {}
        self._write_at: float | None = None
        self._result = ""
        self._cancelled = ""

    @property
    def stop_reason(self) -> str:
        """Why the session is to stop; empty until the machine has been told. Any thread may ask."""
        return self._cancelled

    def post(self, event: Event, took_s: float | None = None) -> None:
        """Something happened."""
        self._inbox.put(_Told(event, took_s))

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have ``function`` called in the driver's thread."""
        self._inbox.put(function)

    def run(self, machine: Machine, actions: Actions) -> str:
        """Drive ``machine`` to its end. Returns the result: success, warning, partial, failed or cancelled."""
        self.post(SessionStarted())
        next_tick = time.monotonic()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="step") as workers:
            while not self._result:
                self._take(machine, actions, workers, until=self._wakes_at(next_tick))
                now = time.monotonic()
                while self._timers and self._timers[0][0] <= now:
                    self.post(heapq.heappop(self._timers)[2])
                if now >= next_tick:
                    next_tick = now + self._poll_s
                    self._look_around(actions)
                elif self._write_at is not None and now >= self._write_at:
                    self._flush()
        self._flush()
        return self._result

    def _wakes_at(self, next_tick: float) -> float:
        """When there is something to do again, though nothing happens."""
        write_at = [] if self._write_at is None else [self._write_at]
        return min([next_tick, *write_at, *(due for due, _, _ in self._timers[:1])])

    def _take(self, machine: Machine, actions: Actions, workers: ThreadPoolExecutor, until: float) -> None:
        try:
            item = self._inbox.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return
        if not isinstance(item, _Told):
            item()
            return
        self._recorder.event(item.event, item.took_s)
        for instruction in machine.handle(item.event):
            self._carry_out(instruction, actions, workers)
        if self._write_at is None:
            self._write_at = time.monotonic() + _GATHER_S

    def _carry_out(self, instruction: Instruction, actions: Actions, workers: ThreadPoolExecutor) -> None:
        match instruction:
            case EndSession():
                self._result = instruction.result
            case PauseTask():
                self._later(instruction.seconds, RetryDue(task=instruction.task))
            case PauseVm():
                self._later(instruction.seconds, VmRetryDue(vm=instruction.vm))
            case _:
                lane = lane_of(instruction)
                waiting = self._lanes.get(lane)
                if waiting is None:
                    self._lanes[lane] = deque()
                    workers.submit(self._perform, instruction, actions, workers)
                else:
                    waiting.append(instruction)

    def _proceed(self, lane: Hashable, actions: Actions, workers: ThreadPoolExecutor) -> None:
        """The lane's instruction is done and its event taken: begin the next."""
        waiting = self._lanes[lane]
        if waiting:
            workers.submit(self._perform, waiting.popleft(), actions, workers)
        else:
            del self._lanes[lane]

    def _perform(self, instruction: Instruction, actions: Actions, workers: ThreadPoolExecutor) -> None:
        began = time.monotonic()
        try:
            event = actions.perform(instruction)
        except HoldfastError as error:
            event = actions.failed(instruction, error)
        except Exception as error:
            log.exception("%s", type(instruction).__name__)
            defect = InternalError(kind=type(error).__name__, where=type(instruction).__name__, reason=str(error))
            event = actions.failed(instruction, defect)
        if event is not None:
            self.post(event, time.monotonic() - began)
        self.call_soon(lambda: self._proceed(lane_of(instruction), actions, workers))

    def _later(self, seconds: float, event: Event) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), event))

    def _look_around(self, actions: Actions) -> None:
        with _waited_out():
            actions.tick()
            if not self._cancelled:
                reason = self._stop_requested()
                if reason:
                    self._cancelled = reason
                    self.post(CancelRequested(reason=reason))
        self._flush()

    def _flush(self) -> None:
        self._write_at = None
        with _waited_out():
            self._recorder.flush()


@contextmanager
def _waited_out() -> Iterator[None]:
    """A catalogue that is busy or away is looked at again soon: the data moves elsewhere, and not for nothing."""
    try:
        yield
    except HoldfastError as error:
        if not error.retryable:
            raise
        log.warning("the session goes on without its catalogue: %s", error)
