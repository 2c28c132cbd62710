"""Traffic rules and groups of repositories as tables of TOML or JSON: what `holdfast apply` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast_agent.model import strict

from ..quantities import SIZE, Parser, with_numbers
from .values import RepositoryGroup, TrafficRule

REPOSITORY_LIMITS: dict[str, Parser] = {"read_limit": SIZE, "write_limit": SIZE}
_QUANTITIES: dict[str, Parser] = {"bandwidth": SIZE}
_GROUP: dict[str, Parser] = {"free_floor": SIZE}


def rule_from_table(table: Mapping[str, Any], source: str) -> TrafficRule:
    """The rule that ``table`` describes; ``source`` (a file, "the options") begins every error.

    The rate may be text: ``bandwidth = "50 MiB"`` (per second). Raises ``UnknownConfigKey`` or ``ConfigInvalid``.
    """
    return strict.convert(with_numbers(table, _QUANTITIES, source), TrafficRule, source)


def rule_to_table(rule: TrafficRule) -> dict[str, Any]:
    """The inverse of ``rule_from_table``, defaults included; what has no value is left out, as TOML asks."""
    table: dict[str, Any] = msgspec.to_builtins(rule)
    return {key: value for key, value in table.items() if value is not None}


def group_from_table(table: Mapping[str, Any], source: str) -> RepositoryGroup:
    """The group that ``table`` describes; ``free_floor`` may be text ("50 GiB"). Raises as :func:`rule_from_table`."""
    return strict.convert(with_numbers(table, _GROUP, source), RepositoryGroup, source)
