"""The façade: plugins are loaded once, and everybody asks here, by name, for the objects that they make."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from holdfast_agent.errors import HoldfastError, PluginBroken, PluginMissing
from holdfast_agent.model import strict
from holdfast_plugins.api import ChangeTracker, GuestProcessor, HypervisorCapabilities, HypervisorDriver, Notifier
from holdfast_plugins.api.registry import Family, Registration

from .boundary import Boundary
from .checks import age_of, fault_of
from .discovery import Candidate, candidates
from .driver_guard import GuardedDriver
from .guest_guard import GuardedGuestProcessor
from .hooks import HookError, HookManager
from .notifier_guard import GuardedNotifier
from .patience import NotInTime, Patience
from .report import PluginReport, PluginStatus, Provided
from .tracker_guard import GuardedTracker

log = logging.getLogger(__name__)
T = TypeVar("T")
LOADING_S = 60.0
"""To import a plugin and have it register what it provides; a second is long already."""
Key = tuple[Family, str, str]
"""Family, hypervisor (change trackers only, else empty) and name."""


class PluginHost:
    """All loaded plugins. Immutable once loaded, so it may be used from any thread."""

    def __init__(self) -> None:
        self._hooks = HookManager()
        self._patience = Patience()
        self._registrations: dict[Key, Registration] = {}
        self._owners: dict[Key, str] = {}
        self._reports: dict[str, PluginReport] = {}

    @classmethod
    def load(
        cls, disabled: Sequence[str] = (), extra: Sequence[str] = (), hypervisors: Collection[str] | None = None
    ) -> PluginHost:
        """Load built-ins, entry points of the group ``holdfast.plugins``, and the modules named in ``extra``.

        Called once per process, at start. ``disabled`` names plugins (as :meth:`report` shows them) to leave out;
        their code is not imported. ``hypervisors``: the only ones of the built-in hypervisors that are needed, for a
        process that lives for one session.

        A plugin that cannot be loaded is logged and reported, never raised: a manager with one broken plugin still runs
        every job that does not need it.
        """
        host = cls()
        for candidate in candidates(extra, hypervisors):
            host._take(candidate, disabled)
        for name in disabled:
            if name not in host._reports:
                host._reports[name] = PluginReport(name, "configuration", PluginStatus.ABSENT)
        return host

    def report(self) -> list[PluginReport]:
        """What became of each plugin, in the order of loading."""
        return list(self._reports.values())

    def hypervisor(
        self, name: str, options: dict[str, Any], secret: Mapping[str, str], source: str
    ) -> HypervisorDriver:
        """A driver, not yet connected. ``source`` names the options' origin in errors ("options of server lab").

        Raises :class:`PluginMissing`, ``ConfigError`` for wrong options, or :class:`PluginDefect`. The same holds
        for the other methods below.
        """
        registration = self._find(Family.HYPERVISOR, name)
        checked = strict.convert(options, registration.options_type, source)
        return GuardedDriver(name, self._make(registration, checked, secret))

    def guest_processor(
        self, name: str, options: dict[str, Any], source: str, secret: Mapping[str, str] | None = None
    ) -> GuestProcessor:
        """A guest processor for one job."""
        registration = self._find(Family.GUEST_PROCESSOR, name)
        checked = strict.convert(options, registration.options_type, source)
        return GuardedGuestProcessor(name, self._make(registration, checked, secret or {}))

    def change_trackers(self, hypervisor: str, driver: HypervisorDriver) -> list[tuple[str, ChangeTracker]]:
        """Name and tracker, for the connected ``driver`` that :meth:`hypervisor` made; sorted by name.

        A tracker whose factory fails is logged and left out: it costs time, never a backup.
        """
        own = driver.unguarded if isinstance(driver, GuardedDriver) else driver
        trackers: list[tuple[str, ChangeTracker]] = []
        for (family, of, name), registration in sorted(self._registrations.items()):
            if family is not Family.CHANGE_TRACKER or of != hypervisor:
                continue
            try:
                trackers.append((name, GuardedTracker(name, self._make(registration, own))))
            except HoldfastError as error:
                log.warning("change tracker %s is left out: %s", name, error)
        return trackers

    def notifier(self, name: str, options: dict[str, Any], source: str, secret: Mapping[str, str]) -> Notifier:
        """A notifier for one delivery."""
        registration = self._find(Family.NOTIFIER, name)
        checked = strict.convert(options, registration.options_type, source)
        return GuardedNotifier(name, self._make(registration, checked, secret))

    def check_options(self, family: Family, name: str, options: dict[str, Any], source: str) -> Any:
        """Check a table of options without making anything; returns the plugin's own struct."""
        return strict.convert(options, self._find(family, name).options_type, source)

    def snapshot_options(self, name: str, table: dict[str, Any], source: str) -> Any:
        """A job's snapshot options for the hypervisor ``name``, as ``SnapshotRequest.options`` wants them."""
        return strict.convert(table, self._find(Family.HYPERVISOR, name).snapshot_options_type, source)

    def options_type(self, family: Family, name: str, hypervisor: str = "") -> type[msgspec.Struct]:
        """The schema of the options of something that is loaded. ``hypervisor``: for change trackers."""
        return self._registrations[family, hypervisor, name].options_type

    def capabilities(self, name: str) -> HypervisorCapabilities:
        """What drivers of the hypervisor ``name`` can do."""
        return self._find(Family.HYPERVISOR, name).capabilities

    def _take(self, candidate: Candidate, disabled: Sequence[str]) -> None:
        earlier = self._reports.get(candidate.name)
        if candidate.name in disabled:
            self._reports.setdefault(
                candidate.name, PluginReport(candidate.name, candidate.origin, PluginStatus.DISABLED)
            )
            return
        try:
            if earlier is not None:
                raise HookError(f"its name is taken by the plugin of the same name from {earlier.origin}")
            registrations = self._load(candidate)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (plugin boundary: others must not notice)
            broken = PluginBroken(plugin=candidate.name, reason=_reason(error))
            log.warning("%s", broken)
            name = candidate.name if earlier is None else f"{candidate.name} ({candidate.origin})"
            self._reports[name] = PluginReport(name, candidate.origin, PluginStatus.BROKEN, broken.to_record())
            return
        provides = tuple(Provided.of(registration) for registration in registrations)
        warnings = tuple(age for age in map(age_of, registrations) if age)
        for warning in warnings:
            log.warning("plugin %s: %s", candidate.name, warning)
        self._reports[candidate.name] = PluginReport(
            candidate.name, candidate.origin, PluginStatus.LOADED, provides=provides, warnings=warnings
        )

    def _load(self, candidate: Candidate) -> list[Registration]:
        plugin = self._in_time(candidate.load)
        registrations = self._in_time(lambda: self._hooks.collect(plugin, candidate.name))
        try:
            accepted = self._accept(registrations)
        except BaseException:
            self._hooks.expel(plugin)
            raise
        self._registrations |= accepted
        self._owners |= dict.fromkeys(accepted, candidate.name)
        return registrations

    def _in_time(self, part: Callable[[], T]) -> T:
        try:
            return self._patience.call(part, LOADING_S)
        except NotInTime:
            raise HookError(f"it was not loaded after {LOADING_S:.0f} s") from None

    def _accept(self, registrations: list[Registration]) -> dict[Key, Registration]:
        """All of a plugin's registrations or none: half a plugin would fail later, and further from its cause."""
        if not registrations:
            raise HookError(
                "it registers nothing; a plugin has functions named after the hooks in holdfast_plugins.api"
            )
        accepted: dict[Key, Registration] = {}
        for registration in registrations:
            fault = fault_of(registration)
            if fault:
                raise HookError(fault)
            key = (registration.family, registration.hypervisor, registration.name)
            if key in accepted:
                raise HookError(f"it registers the {registration.family} {registration.name!r} twice")
            if key in self._owners:
                owner = self._owners[key]
                raise HookError(f"the {registration.family} {registration.name!r} is provided by the plugin {owner!r}")
            accepted[key] = registration
        return accepted

    def _find(self, family: Family, name: str) -> Registration:
        try:
            return self._registrations[family, "", name]
        except KeyError:
            raise PluginMissing(family=family, name=name, nearest=self._hint(family, name)) from None

    def _hint(self, family: Family, name: str) -> str:
        report = self._reports.get(name)
        if report is not None and report.status is not PluginStatus.LOADED:
            return f"; the plugin {name!r} is {report.status}"
        known = [known_name for known_family, _, known_name in self._registrations if known_family is family]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return f"; did you mean {close[0]!r}?" if close else ""

    @staticmethod
    def _make(registration: Registration, *arguments: Any) -> Any:
        return Boundary(registration.name).call("its factory", lambda: registration.factory(*arguments))


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, HookError) else f"{type(error).__name__}: {error}"
