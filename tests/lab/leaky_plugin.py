"""The hypervisor `images` as somebody careless would have written it: each call leaves something behind.

Loaded through the plugin host's own door (``[plugins] load = ["lab.leaky_plugin"]``).
"""

from __future__ import annotations

import os
import threading
from typing import Any

from holdfast_plugins.api import HypervisorCapabilities, Registry
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions

_MEMORY: list[bytearray] = []


def leak() -> None:
    """An open file, memory, and a thread that never ends and is no daemon."""
    os.dup(0)
    _MEMORY.append(bytearray(1 << 20))
    threading.Thread(target=threading.Event().wait, name="of a careless plugin").start()


class LeakyDriver(ImagesDriver):
    """Works, and leaks at every call; it cannot be closed."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if callable(found) and not name.startswith("_"):
            leak()
        return found

    def close(self) -> None:
        raise RuntimeError("it was never tried")


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "leaky",
        LeakyDriver,
        summary="images, carelessly",
        options_type=ImagesOptions,
        capabilities=HypervisorCapabilities(restore=False),
    )
