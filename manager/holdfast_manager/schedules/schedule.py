"""A job's schedule as it is kept: when it starts by itself, in which windows, and what becomes of what fails."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from holdfast_manager.schedules.windows import check_time_zone, parse_window, wall_time

from .occurrences import Occurrences
from .starts import parse_start

_parsed = lru_cache(maxsize=10_000)(parse_start)
_window = lru_cache(maxsize=1000)(parse_window)


class Missed(StrEnum):
    """What becomes of a start at which no service ran: once it is made up for, or it is left out."""

    RUN = "run"
    SKIP = "skip"


class JobSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """When the service runs a job. The defaults of ``retries`` and ``retry_pause_s`` outlast a reboot of a host.

    ``start``: moments as :mod:`.starts` reads them. ``after``: the job by whose good end it starts. ``immediate``: each
    new point of the repository that a job copies from starts it. ``windows``: it
    starts within these times only, and a session that the service started is stopped when they end ("sat,sun",
    "22:00-06:00"; none: always). All of them by a clock in ``time_zone``. ``retries``: how often a session that failed
    is run again, for those VMs that have no point yet, ``retry_pause_s`` after the end of the one before.
    """

    start: tuple[str, ...] = ()
    after: str = ""
    immediate: bool = False
    windows: tuple[str, ...] = ()
    time_zone: str = "UTC"
    missed: Missed = Missed.RUN
    retries: Annotated[int, msgspec.Meta(ge=0, le=20)] = 3
    retry_pause_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = msgspec.field(default=600.0, name="retry_pause")

    def __post_init__(self) -> None:
        for text in self.start:
            parse_start(text)
        for text in self.windows:
            parse_window(text)
        check_time_zone(self.time_zone)
        if not self.start and not self.after and not self.immediate:
            raise ValueError("a schedule says when: give it a start, the job that it comes after, or immediate")

    def next_after(self, moment: float) -> float | None:
        """The first start later than ``moment``, both Unix seconds; windows are not looked at."""
        found = [starts.after(moment, ZoneInfo(self.time_zone)) for starts in self.occurrences]
        return min((each for each in found if each is not None), default=None)

    @property
    def occurrences(self) -> tuple[Occurrences, ...]:
        """``start``, read."""
        return tuple(_parsed(text) for text in self.start)

    def allows(self, moment: float) -> bool:
        """Whether ``moment`` lies in a window."""
        if not self.windows:
            return True
        wall = wall_time(moment, self.time_zone)
        return any(_window(text).covers(wall) for text in self.windows)

    @property
    def key(self) -> str:
        """What names the moments of this schedule: what was missed of others is not made up for."""
        immediate = ("immediate",) if self.immediate else ()
        return "; ".join((*self.start, *immediate, f"after {self.after}", self.time_zone))


def loop_of(job: str, after: Mapping[str, str]) -> tuple[str, ...]:
    """The jobs of a chain that comes back to ``job``; empty for none. ``after``: which job each comes after."""
    chain = [job]
    while (before := after.get(chain[-1], "")) and before not in chain:
        chain.append(before)
    return (*chain, before) if before else ()


def in_order_of_chains(after: Mapping[str, str]) -> list[str]:
    """Jobs by name, but each after the one that it comes after. ``after``: by job, the other one or ""."""

    def depth(job: str) -> int:
        before, steps = after.get(job, ""), 0
        while before and steps <= len(after):
            before, steps = after.get(before, ""), steps + 1
        return steps

    return sorted(after, key=lambda job: (depth(job), job))
