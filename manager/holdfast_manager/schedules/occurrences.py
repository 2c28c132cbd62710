"""Moments that a clock on the wall names: which of them comes next, in any time zone, whatever its clocks do. Pure.

Clocks that are put forward skip times: what would start at one of them starts at the moment of the change, so that no
day is without its backup. Clocks that are put back show times twice: what starts at an hour of its own starts at the
first of them, what starts in every hour starts in both.
"""

from __future__ import annotations

from bisect import bisect_right
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import msgspec

FIRST_YEAR, LAST_YEAR = 1970, 2199
"""Beyond that nothing starts."""
_DAY_S = 86400


class Occurrences(Protocol):
    """Moments without end, or with one."""

    def after(self, moment: float, zone: ZoneInfo) -> float | None:
        """The first later than ``moment`` (both Unix seconds); None: there is none before the year 2200."""
        ...


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
    """All moments whose parts are among these. Days are 1 to 31; ``last_days`` count from the month's end, 1 its last.

    ``weekdays``: 0 is Monday. ``either``: a day counts if its number or its weekday fits, not only if both do, which
    is what cron means when both are given. ``zone``: in the place of the one asked for.
    """

    years: frozenset[int] | None = None
    months: frozenset[int] = frozenset(range(1, 13))
    days: frozenset[int] = frozenset(range(1, 32))
    last_days: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset(range(7))
    hours: frozenset[int] = frozenset({0})
    minutes: frozenset[int] = frozenset({0})
    seconds: frozenset[int] = frozenset({0})
    either: bool = False
    zone: str = ""

    def after(self, moment: float, zone: ZoneInfo) -> float | None:
        """The first moment later than ``moment``."""
        zone = ZoneInfo(self.zone) if self.zone else zone
        times = _Times(self)
        # clocks that are put back over midnight show the day before once more
        for day in self._days(_date(moment, zone) - timedelta(days=1)):
            found = times.after(moment, day, zone)
            if found is not None:
                return found
        return None

    def has_day(self, day: date) -> bool:
        """Whether anything starts on a day."""
        if day.month not in self.months or (self.years is not None and day.year not in self.years):
            return False
        left = monthrange(day.year, day.month)[1] - day.day + 1
        numbered, named = day.day in self.days or left in self.last_days, day.weekday() in self.weekdays
        return numbered or named if self.either else numbered and named

    def _days(self, first: date) -> Iterator[date]:
        for year in range(max(first.year, FIRST_YEAR), LAST_YEAR + 1):
            if self.years is not None and year not in self.years:
                continue
            for month in sorted(self.months):
                if (year, month) < (first.year, first.month):
                    continue
                for number in range(1, monthrange(year, month)[1] + 1):
                    day = date(year, month, number)
                    if day >= first and self.has_day(day):
                        yield day


class Every(msgspec.Struct, frozen=True):
    """Every so many seconds of real time, counted from each midnight: the same times on every day of 24 hours."""

    seconds: int

    def after(self, moment: float, zone: ZoneInfo) -> float | None:
        """The first moment later than ``moment``."""
        day = _date(moment, zone) - timedelta(days=1)
        while True:
            begin, end = (instant(each, 0, 0, zone) for each in (day, day + timedelta(days=1)))
            steps = max(0, (moment - begin) // self.seconds + 1)
            if (found := begin + steps * self.seconds) < end:
                return found
            day += timedelta(days=1)


class _Times:
    """The times of a day in order, without all of them being written down: there may be 86,400."""

    def __init__(self, calendar: Calendar) -> None:
        self._hours, self._minutes, self._seconds = (
            sorted(part) for part in (calendar.hours, calendar.minutes, calendar.seconds)
        )
        self._count = len(self._hours) * len(self._minutes) * len(self._seconds)
        self._folds = (0, 1) if len(self._hours) == 24 else (0,)

    def after(self, moment: float, day: date, zone: ZoneInfo) -> float | None:
        """The first moment of a day that is later than ``moment``."""
        found = []
        for fold in self._folds:

            def moment_of(number: int, fold: int = fold) -> float:
                return instant(day, self._second(number), fold, zone)

            number = bisect_right(range(self._count), moment, key=moment_of)
            if number < self._count:
                found.append(moment_of(number))
        return min(found, default=None)

    def _second(self, number: int) -> int:
        rest, second = divmod(number, len(self._seconds))
        hour, minute = divmod(rest, len(self._minutes))
        return self._hours[hour] * 3600 + self._minutes[minute] * 60 + self._seconds[second]


def instant(day: date, second: int, fold: int, zone: ZoneInfo) -> float:
    """When clocks in ``zone`` show a second of a day; ``fold`` 1: for the last time. Never less for a later second.

    A time that they skip is the moment at which they do.
    """
    wall = datetime(day.year, day.month, day.day, second // 3600, second // 60 % 60, second % 60, fold=fold)
    moment = wall.replace(tzinfo=zone).timestamp()
    if datetime.fromtimestamp(moment, zone).replace(tzinfo=None) == wall.replace(fold=0):
        return moment
    return _skipped_at(wall, zone)


def _skipped_at(wall: datetime, zone: ZoneInfo) -> float:
    """When the clocks were put forward over ``wall``."""
    low, high = (int(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (1, 0))
    offset = datetime.fromtimestamp(high, zone).utcoffset()
    while low < high:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            high = middle
        else:
            low = middle + 1
    return float(low)


def _date(moment: float, zone: ZoneInfo) -> date:
    earliest = datetime(FIRST_YEAR, 1, 2, tzinfo=UTC).timestamp()
    return datetime.fromtimestamp(max(moment, earliest), zone).date()
