"""What became of each plugin, for `holdfast plugin list`."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_plugins.api.registry import Family, Registration


class PluginStatus(StrEnum):
    """``ABSENT``: the configuration disables a plugin that is not there at all (perhaps a slip of the pen)."""

    LOADED = "loaded"
    DISABLED = "disabled"
    BROKEN = "broken"
    ABSENT = "absent"


class Provided(msgspec.Struct, frozen=True):
    """One thing that a loaded plugin provides. ``hypervisor`` is set for change trackers only."""

    family: Family
    name: str
    summary: str
    hypervisor: str = ""

    @classmethod
    def of(cls, registration: Registration) -> Provided:
        return cls(registration.family, registration.name, registration.summary, registration.hypervisor)


class PluginReport(msgspec.Struct, frozen=True):
    """One plugin. ``origin`` says for people where it came from; ``error`` is set when it is broken.

    ``warnings``: what works still and will not for ever, such as an older version of the plugin API.
    """

    name: str
    origin: str
    status: PluginStatus
    error: ErrorRecord | None = None
    provides: tuple[Provided, ...] = ()
    warnings: tuple[str, ...] = ()
