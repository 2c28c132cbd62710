"""Every hook a plugin may implement, as signatures to copy. All are optional; the names are the contract.

The host calls each once, right after it loaded the plugin, in a try of its own: a plugin that raises is reported and
left out, and no other plugin notices.
"""

from __future__ import annotations

from .registry import Registry


def holdfast_register_hypervisors(registry: Registry) -> None:
    """Called at load: register hypervisor drivers with ``registry.hypervisor(…)``."""


def holdfast_register_guest_processors(registry: Registry) -> None:
    """Called at load: register guest processors with ``registry.guest_processor(…)``."""


def holdfast_register_change_trackers(registry: Registry) -> None:
    """Called at load: register change trackers with ``registry.change_tracker(…)``."""


def holdfast_register_notifiers(registry: Registry) -> None:
    """Called at load: register notifiers with ``registry.notifier(…)``."""
