"""The package libvirt-python, loaded when a server is connected to, and the one event loop that it wants in a process.

Keep-alive messages and events of libvirt are handled by an event loop that must be registered before the first
connection is opened, and must then run for as long as the process lives (libvirt-host, virEventRegisterDefaultImpl).
"""

from __future__ import annotations

import threading
from enum import IntEnum
from functools import cache
from typing import Any

from holdfast_agent.errors import HypervisorUnreachable

_LOADING = threading.Lock()


class Code(IntEnum):
    """Numbers of libvirt's errors that are told apart here (virErrorNumber)."""

    NO_DOMAIN = 42
    OPERATION_INVALID = 55
    CONFIG_UNSUPPORTED = 67
    OPERATION_TIMEOUT = 68
    OPERATION_UNSUPPORTED = 84
    NO_DOMAIN_CHECKPOINT = 103
    NO_DOMAIN_BACKUP = 104
    CHECKPOINT_INCONSISTENT = 109


class LibvirtRefused(Exception):
    """libvirt answered with an error. ``code``: its number; see :class:`Code`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Binding:
    """The modules ``libvirt`` and ``libvirt_qemu``. Made by :func:`load_binding`."""

    def __init__(self, api: Any, qemu: Any) -> None:
        self.api = api
        self.qemu = qemu

    def flag(self, name: str) -> int:
        """A constant of libvirt without its ``VIR_`` in front; 0 where this version does not have it."""
        return int(getattr(self.api, f"VIR_{name}", 0))


def load_binding(uri: str) -> Binding:
    """Load libvirt once and start its event loop. Thread-safe. Raises ``HypervisorUnreachable`` if it is not there."""
    try:
        with _LOADING:
            return _load()
    except ImportError as error:
        reason = (
            f"the package libvirt-python cannot be loaded ({error}): pip install 'holdfast[libvirt]', which needs "
            "libvirt-dev, gcc and pkg-config"
        )
        raise HypervisorUnreachable(server=uri, reason=reason) from error


@cache
def _load() -> Binding:
    import libvirt
    import libvirt_qemu

    libvirt.registerErrorHandler(_say_nothing, None)  # it would write to stderr what is raised as well
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, args=(libvirt,), name="libvirt-events", daemon=True).start()
    return Binding(libvirt, libvirt_qemu)


def _run_events(api: Any) -> None:
    while True:
        api.virEventRunDefaultImpl()


def _say_nothing(_context: object, _error: object) -> None:
    """Every error of libvirt is also raised."""
