"""Following a session: the catalogue is asked again and again until the session has ended, or its process died."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import msgspec

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import EventEntry, SessionEntry, SessionState, TaskEntry

POLL_S = 0.1
"""Between looks: people see no delay, and a look costs the database well under a millisecond."""
_REAP_S = 2.0
_PAGE = 1000


class Look(msgspec.Struct, frozen=True):
    """What one look at a session found: ``events`` are those since the last look."""

    session: SessionEntry
    tasks: tuple[TaskEntry, ...]
    events: tuple[EventEntry, ...]


class Display(Protocol):
    """Shows progress while it is followed. A context manager; ``show`` is called once per look, in one thread."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, look: Look) -> None: ...


class Interrupt:
    """How often Ctrl-C came. A number and nothing more: a handler that takes a lock may meet its own thread in it."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        self.count += 1


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Within this, Ctrl-C no longer ends the process. For the main thread only."""
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt.note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def follow(
    catalog: Catalog,
    number: int,
    display: Display,
    interrupt: Interrupt,
    on_interrupt: Callable[[int], bool],
    before_look: Callable[[], None] = lambda: None,
    wait: Callable[[float], None] = time.sleep,
) -> bool:
    """Show the session until it has ended. Returns whether it has; False when the follower wanted to leave before.

    ``on_interrupt`` is called with the count at each Ctrl-C and says whether to go on following. A session whose
    process died is marked failed on the way (``Sessions.reap_dead``). ``wait`` sleeps between looks, at most as long as
    it is told. Raises ``NotFound``.
    """
    last_event, heeded, next_reap = 0, 0, 0.0
    with display:
        while True:
            now = time.monotonic()
            if now >= next_reap:
                before_look()
                catalog.sessions.reap_dead()
                next_reap = now + _REAP_S
            look = _look(catalog, number, last_event)
            last_event = look.events[-1].id if look.events else last_event
            display.show(look)
            if look.session.state is SessionState.ENDED and len(look.events) < _PAGE:
                return True
            if interrupt.count > heeded:
                heeded = interrupt.count
                if not on_interrupt(heeded):
                    return False
            if len(look.events) < _PAGE:
                wait(POLL_S)


def _look(catalog: Catalog, number: int, last_event: int) -> Look:
    # the session first: once it has ended, nothing is written after what is read next
    session = catalog.sessions.get(number)
    events = catalog.events.after(number, last_event, _PAGE)
    return Look(session, catalog.tasks.list(number), events)
