"""What is to be done to one thing of the catalogue, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec


class Action(StrEnum):
    """The value is the mark in front of the line."""

    CREATE = "+"
    CHANGE = "~"
    UNCHANGED = "="
    REMOVE = "-"


class Difference(msgspec.Struct, frozen=True):
    """One key that differs. Values of secrets are never in here: they are told as "(secret)"."""

    key: str
    old: Any
    new: Any


class Change(msgspec.Struct, frozen=True):
    """One line of a plan. ``carry_out`` does it; it is not part of what is shown."""

    kind: str
    name: str
    action: Action
    differences: tuple[Difference, ...] = ()
    note: str = ""
    carry_out: Callable[[], None] = lambda: None

    def shown(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "action": self.action.name.lower(),
            "note": self.note,
            "differences": [msgspec.to_builtins(each) for each in self.differences],
        }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Keys whose values differ, by name; a key that one side lacks counts as None there."""
    keys = sorted(old.keys() | new.keys())
    return tuple(Difference(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key))


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as "outer.inner" keys, so that differences name the innermost key."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found
