"""Sizes and durations written as text in tables from outside, turned into numbers before the strict conversion.

Used at the edge only (manager configuration, job tables): inside, sizes are bytes and durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast_agent.errors import ConfigInvalid, UsageError
from holdfast_agent.model.units import parse_duration, parse_size

Parser = Callable[[str], float | str]

SIZE: Parser = parse_size
DURATION: Parser = parse_duration


def with_numbers(table: Mapping[str, Any], keys: Mapping[str, Parser], source: str, path: str = "") -> dict[str, Any]:
    """A copy of ``table`` in which the text values of ``keys`` are numbers (bytes or seconds).

    Keys that are absent, or numbers already, stay as they are; all other checks are the strict conversion's.
    ``path`` is the table's own place in the file. Raises :class:`ConfigInvalid` naming ``source`` and the key.
    """
    numbers = dict(table)
    for key, parse in keys.items():
        text = numbers.get(key)
        if not isinstance(text, str):
            continue
        try:
            numbers[key] = parse(text)
        except UsageError as error:
            where = f"{path}.{key}" if path else key
            raise ConfigInvalid(file=source, key=where, reason=error.text) from error
    return numbers
