"""The plugin boundary: every call of a plugin's object is made here, with a limit and with typed errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from holdfast_agent.errors import DiskUrlInvalid, HoldfastError, PluginDefect, PluginHung

from .patience import NotInTime, Patience

log = logging.getLogger(__name__)
T = TypeVar("T")
LONGEST_S = 25 * 3600.0
"""For what honestly takes long: a snapshot that is consolidated, a restore that is imported, an owner's script."""
LIMITS_S = {
    "its factory": 60.0,
    "connect": 300.0,
    "close": 60.0,
    "list_vms": 600.0,
    "vm_info": 600.0,
    "create_snapshot": 3600.0,
    "check_snapshot": 600.0,
    "guest_agent": 60.0,
    "programs": 600.0,
    "put": 600.0,
    "near_proxies": 60.0,
    "disk_for": 3600.0,
    "place_for": 3600.0,
    "places": 600.0,
    "missing_rights": 600.0,
    "latencies_ms": 300.0,
    "resume_instant": 120.0,
    "instant_clients": 600.0,
    "changed": 3600.0,
    "allocated": 3600.0,
}
"""Seconds; what is not here has :data:`LONGEST_S`. Nets under the time-outs that plugins have themselves."""


class ContractBroken(Exception):
    """An answer that the protocol does not allow."""


def expect(condition: bool, otherwise: str) -> None:
    """Raises :class:`ContractBroken`, in words: what is told instead of what should be."""
    if not condition:
        raise ContractBroken(otherwise)


class Boundary:
    """The way to one object of a plugin. Thread-safe.

    A call that did not come back in time is given up, and its subject (a VM, mostly) with it: whatever the plugin still
    does there must not meet another call. Other subjects go on.
    """

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin
        self._patience = Patience()
        self._hung: dict[str, PluginHung] = {}

    def call(self, method: str, function: Callable[[], T], about: str = "", limit_s: float | None = None) -> T:
        """What ``function`` returns. ``about``: the subject; without one the method is its own.

        A ``HoldfastError`` passes unchanged. Raises :class:`PluginDefect` for anything else, and :class:`PluginHung`.
        """
        subject, limit_s = about or method, limit_s or LIMITS_S.get(method, LONGEST_S)
        if subject in self._hung:
            raise PluginHung(**self._hung[subject].fields)
        with self.judging(method):
            try:
                return self._patience.call(function, limit_s)
            except NotInTime:
                hung = PluginHung(plugin=self._plugin, method=method, limit_s=limit_s)
                self._hung[subject] = hung
                log.error("%s", hung)
                raise hung from None

    def close(self, function: Callable[[], None]) -> None:
        """Call a plugin's ``close``. Never raises: a failing clean-up must not hide the first error."""
        try:
            self.call("close", function)
        except HoldfastError:
            log.exception("close of plugin %s raised", self._plugin)

    @contextmanager
    def judging(self, method: str) -> Iterator[None]:
        """What is raised inside, by the plugin or by a look at its answer, becomes typed."""
        try:
            yield
        except (ContractBroken, DiskUrlInvalid) as error:
            raise PluginDefect(plugin=self._plugin, method=method, reason=str(error)) from error
        except HoldfastError:
            raise
        except Exception as error:  # plugin boundary
            reason = f"{type(error).__name__}: {error}"
            raise PluginDefect(plugin=self._plugin, method=method, reason=reason) from error
