"""Expressions of cron: "0 22 * * 1-5", "@weekly" (crontab(5)). Pure."""

from __future__ import annotations

from .fields import Field
from .occurrences import Calendar

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MINUTE = Field("minute", 0, 59)
_HOUR = Field("hour", 0, 23)
_DAY = Field("day of the month", 1, 31)
_MONTH = Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)})
_WEEKDAY = Field("day of the week", 0, 7, {name: number for number, name in enumerate(_DAYS)})
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def parse_cron(text: str) -> Calendar:
    """Five fields: minute, hour, day of the month, month, day of the week. Raises ``ValueError``.

    As crontab(5) has it: where both kinds of days are restricted (do not begin with a star), either will do.
    """
    parts = _SHORT.get(text.strip().lower(), text).split()
    if len(parts) != 5:
        raise ValueError(f"{text!r} is no cron expression: it has five fields, such as 0 22 * * 1-5")
    minute, hour, day, month, weekday = parts
    return Calendar(
        minutes=_MINUTE.numbers(minute),
        hours=_HOUR.numbers(hour),
        days=_DAY.numbers(day),
        months=_MONTH.numbers(month),
        weekdays=frozenset((number - 1) % 7 for number in _WEEKDAY.numbers(weekday)),
        either=not (day.startswith("*") or weekday.startswith("*")),
    )
