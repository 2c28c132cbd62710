"""Dates as people write them in options."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from holdfast_agent.errors import UsageError


def parse_date(text: str, option: str, *, end_of_day: bool) -> float:
    """Unix time of "2027-12-31" (UTC; its first moment, or its last) or "2027-12-31T18:00+01:00".

    Raises :class:`UsageError` that names ``option``.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(reason=f"{option} takes 2027-12-31 or 2027-12-31T18:00+01:00, not {text!r}") from None
    if end_of_day and len(text) == len("2027-12-31"):
        at += timedelta(days=1)
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
