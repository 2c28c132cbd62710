"""Where plugins register what they provide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from .changes import ChangeTracker
from .guest import GuestProcessor
from .hypervisor import HypervisorCapabilities, HypervisorDriver
from .notices import Notifier

API_VERSION = 1
"""Grows when a protocol changes so that older plugins would break. The host takes this version and the one before."""
OLDEST_API_VERSION = max(1, API_VERSION - 1)
"""The oldest that the host takes; plugins written for it are reported with a warning."""
FIRST_API_VERSION = 1
"""What a plugin is taken to be written for that does not say: there was no other when nobody had to say."""


class Family(StrEnum):
    """The families of plugins."""

    HYPERVISOR = "hypervisor"
    GUEST_PROCESSOR = "guest processor"
    CHANGE_TRACKER = "change tracker"
    NOTIFIER = "notifier"


class NoOptions(msgspec.Struct, frozen=True):
    """For factories that take no options."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a plugin provides.

    ``name`` is what configurations say. ``factory`` is called with (``options``, ``secret``): an instance of
    ``options_type`` and a mapping of credentials. Options are checked against ``options_type`` (a frozen msgspec
    struct; unknown keys are refused) before the factory sees them. The factory of a change tracker is called with the
    connected driver of ``hypervisor`` instead. ``api_version``: the one that its author wrote
    it for, as a plain number and not as :data:`API_VERSION`, which grows with Holdfast.
    """

    family: Family
    name: str
    summary: str
    factory: Callable[..., Any]
    options_type: type[msgspec.Struct] = NoOptions
    snapshot_options_type: type[msgspec.Struct] = NoOptions
    capabilities: HypervisorCapabilities = HypervisorCapabilities()
    hypervisor: str = ""
    api_version: int = FIRST_API_VERSION


class Registry:
    """Collects the registrations of one plugin while its hooks run. Not thread-safe; used at load only."""

    def __init__(self) -> None:
        self.registrations: list[Registration] = []

    def hypervisor(
        self,
        name: str,
        factory: Callable[[Any, Mapping[str, str]], HypervisorDriver],
        *,
        summary: str,
        options_type: type[msgspec.Struct] = NoOptions,
        snapshot_options_type: type[msgspec.Struct] = NoOptions,
        capabilities: HypervisorCapabilities = HypervisorCapabilities(),  # noqa: B008 (frozen value)
        api_version: int = FIRST_API_VERSION,
    ) -> None:
        """Register a hypervisor driver under ``name``: what `server add --plugin` takes.

        ``factory(options, secret)`` is called in each process that needs the server, before ``connect``; it may keep
        both, and connects to nothing. ``snapshot_options_type``: of the table `snapshot` of jobs, which
        ``SnapshotRequest.options`` has.
        """
        self.registrations.append(
            Registration(
                family=Family.HYPERVISOR,
                name=name,
                summary=summary,
                factory=factory,
                options_type=options_type,
                snapshot_options_type=snapshot_options_type,
                capabilities=capabilities,
                api_version=api_version,
            )
        )

    def guest_processor(
        self,
        name: str,
        factory: Callable[[Any, Mapping[str, str]], GuestProcessor],
        *,
        summary: str,
        options_type: type[msgspec.Struct] = NoOptions,
        api_version: int = FIRST_API_VERSION,
    ) -> None:
        """Register a guest processor under ``name``: what the `processor` of a job's table `guest` says.

        ``factory(options, secret)`` is called once for each session of such a job; it reaches no guest. ``secret`` is
        empty: what a guest asks for lies in files that the options name.
        """
        self.registrations.append(
            Registration(
                family=Family.GUEST_PROCESSOR,
                name=name,
                summary=summary,
                factory=factory,
                options_type=options_type,
                api_version=api_version,
            )
        )

    def change_tracker(
        self,
        name: str,
        factory: Callable[[HypervisorDriver], ChangeTracker],
        *,
        summary: str,
        hypervisor: str,
        api_version: int = FIRST_API_VERSION,
    ) -> None:
        """Register a change tracker for the hypervisor driver called ``hypervisor``, which may have several.

        ``factory(driver)`` is called with the plugin's own driver, connected, once for each backup session. The first
        tracker that can tell what changed is believed.
        """
        self.registrations.append(
            Registration(
                family=Family.CHANGE_TRACKER,
                name=name,
                summary=summary,
                factory=factory,
                hypervisor=hypervisor,
                api_version=api_version,
            )
        )

    def notifier(
        self,
        name: str,
        factory: Callable[[Any, Mapping[str, str]], Notifier],
        *,
        summary: str,
        options_type: type[msgspec.Struct] = NoOptions,
        api_version: int = FIRST_API_VERSION,
    ) -> None:
        """Register a notifier under ``name``: what the `plugin` of a table `notifiers.NAME` says.

        ``factory(options, secret)`` is called for each delivery, in a process that runs no session.
        """
        self.registrations.append(
            Registration(
                family=Family.NOTIFIER,
                name=name,
                summary=summary,
                factory=factory,
                options_type=options_type,
                api_version=api_version,
            )
        )
