"""Calendar events of systemd: "Mon..Fri *-*-* 22:00:00", "*-*~01 03:00", "quarterly" (systemd.time(7)). Pure.

All that systemd.time(7) describes but fractions of seconds and moments ("@…").
"""

from __future__ import annotations

import re

import msgspec

from holdfast_manager.schedules.windows import check_time_zone

from .fields import Field
from .occurrences import FIRST_YEAR, LAST_YEAR, Calendar

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NAMES = {name: number for number, day in enumerate(_DAYS) for name in (day, day[:3])}
_WEEKDAY = Field("weekday", 0, 6, _NAMES, dash="..")
_YEAR = Field("year", FIRST_YEAR, LAST_YEAR, dash="..")
_MONTH = Field("month", 1, 12, dash="..")
_DAY = Field("day", 1, 31, dash="..")
_HOUR = Field("hour", 0, 23, dash="..")
_MINUTE = Field("minute", 0, 59, dash="..")
_SECOND = Field("second", 0, 59, dash="..")
_SHORT = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "yearly": "*-01-01 00:00:00",
    "annually": "*-01-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    "semiannually": "*-01,07-01 00:00:00",
}
_DATE = re.compile(r"(?:(?P<year>[^-~]+)-)?(?P<month>[^-~]+)(?P<from>[-~])(?P<day>[^-~]+)")


def parse_systemd(text: str) -> Calendar:
    """Weekdays, date, time and zone; each but one of them may be missing. Raises ``ValueError``."""
    parts = text.split()
    if parts and parts[0].lower() in _SHORT:
        parts[:1] = _SHORT[parts[0].lower()].split()
    known = Calendar()
    seen = 0
    if parts and parts[0][0].isalpha() and not _is_zone(parts):
        known = msgspec.structs.replace(known, weekdays=_WEEKDAY.numbers(parts.pop(0).rstrip(",")))
        seen += 1
    if parts and _DATE.fullmatch(parts[0]):
        known = _with_date(known, parts.pop(0))
        seen += 1
    if parts and ":" in parts[0]:
        known = _with_time(known, parts.pop(0))
        seen += 1
    if seen and len(parts) == 1:
        zone = parts.pop()
        check_time_zone(zone)
        known = msgspec.structs.replace(known, zone=zone)
    if parts or not seen:
        raise ValueError(f"{text!r} is no calendar event; write for example Mon..Fri *-*-* 22:00:00")
    return known


def _is_zone(parts: list[str]) -> bool:
    return len(parts) == 1 and "/" in parts[0]


def _with_date(known: Calendar, text: str) -> Calendar:
    form = _DATE.fullmatch(text)
    if form is None:
        raise ValueError(f"{text!r} is no date")
    years = None if form["year"] in (None, "*") else _YEAR.numbers(form["year"])
    known = msgspec.structs.replace(known, years=years, months=_numbers(_MONTH, form["month"]))
    if form["from"] == "-":
        return msgspec.structs.replace(known, days=_numbers(_DAY, form["day"]))
    return msgspec.structs.replace(known, days=frozenset(), last_days=_last_days(form["day"]))


def _last_days(text: str) -> frozenset[int]:
    """Counted from the month's end: "~07/1" is its last seven days, since steps go forward."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, step = part.partition("/")
        if not first.isdecimal() or not (step or "1").isdecimal():
            raise ValueError(f"~{part} is no day: after ~ stand numbers, with a step at most")
        if step:
            found.update(range(min(_DAY.numbers(first)), 0, -max(1, int(step))))
        else:
            found.update(_DAY.numbers(first))
    return frozenset(found)


def _with_time(known: Calendar, text: str) -> Calendar:
    hour, minute, *rest = text.split(":")
    second = rest[0] if rest else "00"
    if len(rest) > 1 or "." in second.replace("..", ""):
        raise ValueError(f"{text!r} is no time: it has hours, minutes and whole seconds")
    return msgspec.structs.replace(
        known,
        hours=_numbers(_HOUR, hour),
        minutes=_numbers(_MINUTE, minute),
        seconds=_numbers(_SECOND, second),
    )


def _numbers(field: Field, text: str) -> frozenset[int]:
    if "*/" in text:
        raise ValueError(f"{text!r}: a star takes no step; write {field.low}/{text.partition('/')[2]}")
    return field.numbers(text)
