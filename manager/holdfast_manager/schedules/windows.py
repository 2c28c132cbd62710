"""Times of day at which something holds, as people write them: "mon-fri 08:00-18:00". Pure.

Everything goes by what a clock on the wall shows in the rule's time zone. So a day on which the clocks change is
neither longer nor shorter for a rule: an hour that is shown twice counts twice, one that is skipped is never there.
"""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(r"(?P<days>[a-z]{3}(?:[-,][a-z]{3})*)?\s*(?:(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d))?")
_DAY_MINUTES = 24 * 60


class Window(msgspec.Struct, frozen=True):
    """From ``begin`` up to, not including, ``end``, in minutes of the day, on ``days`` (0 is Monday).

    One that ends before it begins goes over midnight: it belongs to the day on which it begins.
    """

    days: frozenset[int]
    begin: int
    end: int

    def covers(self, wall: datetime) -> bool:
        """Whether it holds at the time that a clock on the wall shows."""
        minute, day = wall.hour * 60 + wall.minute, wall.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        yesterday = (day - 1) % len(DAYS)
        return (day in self.days and minute >= self.begin) or (yesterday in self.days and minute < self.end)


def parse_window(text: str) -> Window:
    """ "mon-fri 08:00-18:00", "sat,sun", "22:00-06:00". Raises ``ValueError`` that says what is wrong."""
    found = _FORM.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        raise ValueError(f"{text!r} is no time window; write for example mon-fri 08:00-18:00, sat,sun or 22:00-06:00")
    days = parse_days(found["days"]) if found["days"] else frozenset(range(len(DAYS)))
    begin, end = (_minute(found["begin"]), _minute(found["end"])) if found["begin"] else (0, _DAY_MINUTES)
    if begin in (end, _DAY_MINUTES):
        raise ValueError(f"{text!r} is no time window: a whole day is written 00:00-24:00")
    return Window(days, begin, end)


def wall_time(now: float, time_zone: str) -> datetime:
    """What a clock on the wall shows in a zone. ``now``: Unix seconds."""
    return datetime.fromtimestamp(now, ZoneInfo(time_zone))


def check_time_zone(name: str) -> None:
    """Raise ``ValueError`` unless there is a time zone of that name."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, no name of a zone at all, a directory of zones
        raise ValueError(f"time_zone {name!r} is not known; write for example Europe/Berlin") from None


def parse_days(text: str) -> frozenset[int]:
    """ "mon-fri", "sat,sun"; 0 is Monday. Raises ``ValueError`` that says what is wrong."""
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last and last not in DAYS) or part.count("-") > 1:
            raise ValueError(f"{part!r} names no days; they are {', '.join(DAYS)}")
        begin = DAYS.index(first)
        length = (DAYS.index(last or first) - begin) % len(DAYS)
        days.update((begin + step) % len(DAYS) for step in range(length + 1))
    return frozenset(days)


def _minute(text: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    if minute > 59 or hour * 60 + minute > _DAY_MINUTES:
        raise ValueError(f"{text!r} is no time of day; they go from 00:00 to 24:00")
    return hour * 60 + minute
