"""Jobs as tables of TOML or JSON: what `holdfast apply` reads and `holdfast job create` makes of its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model import strict

from ..quantities import DURATION, SIZE, Parser, with_numbers
from ..retention.policy import RetentionPolicy
from .values import JobSpec

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def _audit(text: str) -> int | str:
    """A number of blocks, or a share of them in the one way in which it is kept: "1.5 %"."""
    share = _SHARE.fullmatch(text.strip())
    if share is not None and float(share[1]) <= 100:
        return f"{float(share[1]):g} %"
    if text.strip().isdigit():
        return int(text)
    raise UsageError(reason=f"{text!r} is neither a number of blocks, such as 64, nor a share of them, such as 1 %")


_QUANTITIES: dict[str, Parser] = {
    "block_size": SIZE, "bandwidth": SIZE, "retry_pause": DURATION, "audit": _audit,
}  # fmt: skip
_SCHEDULE: dict[str, Parser] = {"retry_pause": DURATION}
_VERIFY_BOOT: dict[str, Parser] = {"memory": SIZE, "timeout": DURATION}
_RETENTION: dict[str, Parser] = {"undo_window": DURATION, "immutable": DURATION}


def job_from_table(table: Mapping[str, Any], source: str) -> JobSpec:
    """The job that ``table`` describes; ``source`` (a file, "the options") begins every error.

    Sizes, rates and durations may be text: ``block_size = "1 MiB"``, ``bandwidth = "50 MiB"`` (per second),
    ``retry_pause = "30 s"``; ``audit`` may be a share. Raises ``UnknownConfigKey`` or ``ConfigInvalid``.
    """
    numbers = with_numbers(table, _QUANTITIES, source)
    if isinstance(numbers.get("verify_boot"), dict):
        numbers["verify_boot"] = with_numbers(numbers["verify_boot"], _VERIFY_BOOT, source, "verify_boot")
    elif isinstance(numbers.get("verify_boot"), bool):
        numbers["verify_boot"] = {} if numbers["verify_boot"] else None
    if isinstance(numbers.get("retention"), dict):
        numbers["retention"] = with_numbers(numbers["retention"], _RETENTION, source, "retention")
    if isinstance(numbers.get("schedule"), dict):
        numbers["schedule"] = with_numbers(numbers["schedule"], _SCHEDULE, source, "schedule")
    return strict.convert(numbers, JobSpec, source)


def retention_from_table(table: Mapping[str, Any], source: str) -> RetentionPolicy:
    """The retention that ``table`` (a job's ``retention``) describes. Raises as :func:`job_from_table`."""
    return strict.convert(with_numbers(table, _RETENTION, source), RetentionPolicy, source)


def job_to_table(spec: JobSpec) -> dict[str, Any]:
    """The inverse of ``job_from_table``, defaults included; what has no value is left out, as TOML asks."""
    table: dict[str, Any] = msgspec.to_builtins(spec)
    return {key: value for key, value in table.items() if value is not None}
