"""The budget of a verification from its options."""

from __future__ import annotations

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import parse_duration
from holdfast_agent.wire.messages import VerifyBudget


def budget_of(level: int, older_than: str | None, max_duration: str | None, sample_percent: float) -> VerifyBudget:
    """What was given, as the agents take it. Raises :class:`UsageError` where it makes no sense at ``level``."""
    if level == 0 and (older_than or max_duration or sample_percent < 100):
        raise UsageError(reason="a budget is for levels 1 and 2; level 0 reads no pack")
    if level == 2 and older_than:
        reason = "--older-than goes with level 1: times of checks are kept by pack, and level 2 reads by block"
        raise UsageError(reason=reason)
    return VerifyBudget(
        older_than_s=parse_duration(older_than) if older_than else 0.0,
        max_duration_s=parse_duration(max_duration) if max_duration else 0.0,
        sample_percent=sample_percent,
    )
