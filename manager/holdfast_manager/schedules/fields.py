"""Sets of numbers as cron and systemd write them: lists, ranges, steps, names. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

_FORM = re.compile(r"(?P<first>\*|\w+)(?:(?P<range>\.\.|-)(?P<last>\w+))?(?:/(?P<step>\d+))?")


class Field(msgspec.Struct, frozen=True):
    """One part of an expression: what it is called, its least and greatest number, names of numbers, how ranges look.

    ``wraps``: a range may end below where it begins. ``bare_star_only``: a star takes no step.
    """

    name: str
    low: int
    high: int
    names: Mapping[str, int] = {}
    dash: str = "-"
    wraps: bool = False

    def numbers(self, text: str) -> frozenset[int]:
        """The numbers that ``text`` names. Raises ``ValueError`` that says what is wrong."""
        found: set[int] = set()
        for part in text.split(","):
            found.update(self._part(part))
        return frozenset(found)

    def _part(self, text: str) -> range | list[int]:
        form = _FORM.fullmatch(text)
        if form is None or (form["range"] or self.dash) != self.dash:
            raise ValueError(f"{text!r} is no {self.name}")
        step = int(form["step"] or 1)
        if step == 0:
            raise ValueError(f"{text!r}: a step of 0 never gets anywhere")
        if form["first"] == "*":
            if form["last"] is not None:
                raise ValueError(f"{text!r} is no {self.name}")
            return range(self.low, self.high + 1, step)
        first = self._number(form["first"])
        last = self._number(form["last"]) if form["last"] else self.high if form["step"] else first
        if first <= last:
            return range(first, last + 1, step)
        if not self.wraps:
            raise ValueError(f"{text!r}: the range ends before it begins")
        size = self.high - self.low + 1
        return [self.low + (number - self.low) % size for number in range(first, last + size + 1, step)]

    def _number(self, text: str) -> int:
        number = self.names.get(text.lower())
        if number is None:
            if not text.isdecimal():
                raise ValueError(f"{text!r} is no {self.name}")
            number = int(text)
        if not self.low <= number <= self.high:
            raise ValueError(f"{self.name} {number}: they go from {self.low} to {self.high}")
        return number
