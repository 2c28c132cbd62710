"""What a machine remembers of its past, so that an illegal transition tells how it came about."""

from __future__ import annotations

from collections import deque

from .events import Event

_REMEMBERED = 40


class IllegalTransition(Exception):
    """A state machine was told something that cannot happen in its state: a defect of Holdfast, never of its user."""

    def __init__(self, machine: str, state: str, event: Event, story: list[str]) -> None:
        lines = "\n  ".join(story)
        super().__init__(f"{machine} in state {state!r} cannot take {event!r}; before that:\n  {lines}")


class Story:
    """The last events of one machine with the state each of them found it in."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_REMEMBERED)

    def note(self, state: str, event: Event) -> None:
        self._lines.append(f"{state}: {event!r}")

    def illegal(self, machine: str, state: str, event: Event) -> IllegalTransition:
        return IllegalTransition(machine, state, event, list(self._lines))
