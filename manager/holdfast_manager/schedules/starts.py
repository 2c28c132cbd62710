"""What people write for when a job starts, in five forms. Pure.

"daily 22:00" · "mon-fri 22:00, 06:00" · "monthly 1, 15 03:00", "monthly last 03:00", "monthly first sat 03:00" ·
"every 4 h" · "cron 0 22 * * 1-5" · "calendar Mon..Fri *-*-* 22:00:00"
"""

from __future__ import annotations

import re

import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import parse_duration
from holdfast_manager.schedules.windows import DAYS, parse_days

from .cron import parse_cron
from .occurrences import Calendar, Every, Occurrences
from .systemd import parse_systemd

_EXAMPLES = "daily 22:00, mon-fri 22:00, monthly last 03:00, every 4 h, cron 0 22 * * * or calendar Mon *-*-* 22:00"
_NTH = {name: range(first, first + 7) for name, first in (("first", 1), ("second", 8), ("third", 15), ("fourth", 22))}
_TIME = re.compile(r"\d\d:\d\d")


def parse_start(text: str) -> Occurrences:
    """The moments that ``text`` names. Raises ``ValueError`` that says what is wrong."""
    form, _, rest = text.strip().partition(" ")
    match form.lower():
        case "cron":
            return parse_cron(rest)
        case "calendar":
            return parse_systemd(rest)
        case "every":
            return _every(text, rest)
        case "daily":
            return _at(text, rest, Calendar())
        case "monthly":
            return _monthly(text, rest.lower())
    if not form[:1].isalpha():
        raise ValueError(f"{text!r} is no start of a job; write for example {_EXAMPLES}")
    return _at(text, rest, Calendar(weekdays=parse_days(form.lower())))


def _every(text: str, rest: str) -> Every:
    try:
        seconds = parse_duration(rest)
    except UsageError as error:
        raise ValueError(f"{text!r}: {error.text}; write for example every 4 h") from error
    if not 60 <= seconds <= 86400 or seconds != int(seconds):
        raise ValueError(f"{text!r}: from every 1 min to every 24 h")
    return Every(int(seconds))


def _monthly(text: str, rest: str) -> Calendar:
    parts = rest.replace(",", " ").split()
    words, times = [part for part in parts if ":" not in part], [part for part in parts if ":" in part]
    at = _at(text, ",".join(times), Calendar())
    match words:
        case ["last"]:
            return msgspec.structs.replace(at, days=frozenset(), last_days=frozenset({1}))
        case ["last", day] if day in DAYS:
            week = frozenset(range(1, 8))
            return msgspec.structs.replace(at, days=frozenset(), last_days=week, weekdays=parse_days(day))
        case [nth, day] if nth in _NTH and day in DAYS:
            return msgspec.structs.replace(at, days=frozenset(_NTH[nth]), weekdays=parse_days(day))
    days = [int(word) for word in words if word.isdecimal() and 1 <= int(word) <= 31]
    if not days or len(days) != len(words):
        raise ValueError(f"{text!r}: after monthly stand days (1, 15), last, or one such as first sat or last fri")
    return msgspec.structs.replace(at, days=frozenset(days))


def _at(text: str, rest: str, calendar: Calendar) -> Calendar:
    """``calendar`` at one or several times of the day, which must be full pairs of hour and minute, or like pairs."""
    times = rest.replace(",", " ").split()
    if not times or any(not _TIME.fullmatch(time) or time[:2] > "23" or time[3:] > "59" for time in times):
        raise ValueError(f"{text!r} is no start of a job; write for example {_EXAMPLES}")
    hours, minutes = ({int(time[part]) for time in times} for part in (slice(2), slice(3, 5)))
    if len(set(times)) != len(hours) * len(minutes):
        raise ValueError(f"{text!r}: times that differ in hours and in minutes need a start each")
    return msgspec.structs.replace(calendar, hours=frozenset(hours), minutes=frozenset(minutes))
