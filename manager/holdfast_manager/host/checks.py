"""Checks of what a plugin registered, at load, so that a mistake shows before the first backup needs the plugin."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from holdfast_plugins.api.registry import API_VERSION, OLDEST_API_VERSION, Family, Registration

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


def fault_of(registration: Registration) -> str:
    """What is wrong with ``registration``, in one sentence; empty when nothing is."""
    what = f"{registration.family} {registration.name!r}"
    if not OLDEST_API_VERSION <= registration.api_version <= API_VERSION:
        return (
            f"{what} is written for version {registration.api_version} of the plugin API, this Holdfast has "
            f"version {_accepted()}: upgrade the older of the two"
        )
    if not _NAME.fullmatch(registration.name):
        return f"{what}: a name is made of lower-case letters, digits and single '-' or '_'"
    if not registration.summary.strip():
        return f"{what} has no summary"
    if not callable(registration.factory):
        return f"{what}: the factory cannot be called"
    if registration.family is Family.CHANGE_TRACKER and not registration.hypervisor:
        return f"{what} does not say for which hypervisor it is"
    for label in ("options_type", "snapshot_options_type"):
        fault = _fault_of_type(getattr(registration, label))
        if fault:
            return f"{what}: {label} {fault}"
    return ""


def age_of(registration: Registration) -> str:
    """A warning for what was written for the version before the present one; empty for what is up to date."""
    if registration.api_version == API_VERSION:
        return ""
    return (
        f"{registration.family} {registration.name!r} is written for version {registration.api_version} of the plugin "
        f"API, which the next version of Holdfast's ({API_VERSION + 1}) will refuse; ask its author for a newer one"
    )


def _accepted() -> str:
    return f"{API_VERSION}" if OLDEST_API_VERSION == API_VERSION else f"{API_VERSION} and takes {OLDEST_API_VERSION}"


def _fault_of_type(options_type: Any) -> str:
    if not (isinstance(options_type, type) and issubclass(options_type, msgspec.Struct)):
        return "is not a msgspec.Struct"
    if not options_type.__struct_config__.frozen:
        return "is not frozen (class Options(msgspec.Struct, frozen=True))"
    try:
        msgspec.structs.fields(options_type)
    except (NameError, TypeError) as error:
        return f"has an annotation that cannot be resolved: {error}"
    return ""
