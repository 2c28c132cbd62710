"""The options by which a job has each new point proven to boot, shared by `job create` and `job edit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from holdfast_agent.model.boot import BootBus, BootFirmware
from holdfast_agent.model.units import format_duration, format_size
from holdfast_manager.catalog.values import BootSettings

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--verify-boot", is_flag=True, default=None, help="Start each new point, to prove that it boots."),
    click.option("--boot-proxy", metavar="AGENT", help="Where. Default: the repository's own agent, if it is a proxy."),
    click.option("--boot-memory", metavar="SIZE", help="Of that guest. Default: 1 GiB."),
    click.option("--boot-cpus", type=int, help="Of that guest. Default: 1."),
    click.option("--boot-bus", type=click.Choice([each.value for each in BootBus]), help="Default: virtio."),
    click.option("--boot-firmware", type=click.Choice([each.value for each in BootFirmware]), help="Default: bios."),
    click.option("--boot-console", metavar="TEXT", help="It is up when its console says so. Default: by its agent."),
    click.option("--boot-command", metavar="TEXT", help="It is up when this ends with 0 in its shell."),
    click.option("--boot-timeout", metavar="TIME", help='Give up after so long, such as "5 min" (the default).'),
    click.option("--boot-emulate", is_flag=True, default=None, help="Without the host's KVM."),
)
_KEYS = {
    "boot_proxy": "proxy", "boot_memory": "memory", "boot_cpus": "cpus", "boot_bus": "bus",
    "boot_firmware": "firmware", "boot_console": "console", "boot_command": "command", "boot_timeout": "timeout",
    "boot_emulate": "emulate",
}  # fmt: skip


def boot_options(function: F) -> F:
    """Decorator: the command takes them among its ``**given``, for :func:`boot_table`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def boot_table(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was given of boot proofs, under the keys of a job's table; None if nothing was."""
    told = {key: given[name] for name, key in _KEYS.items() if given.get(name) is not None}
    return told if told or given.get("verify_boot") else None


def without_boot(given: Mapping[str, Any]) -> dict[str, Any]:
    """All that was given but these options."""
    return {name: value for name, value in given.items() if name not in (*_KEYS, "verify_boot")}


def boot_text(settings: BootSettings | None) -> str:
    """For `job show`."""
    if settings is None:
        return "not proven"
    wish = f"its console says {settings.console!r}" if settings.console else "its guest agent answers"
    wish = f"the command {settings.command!r} ends with 0 in it" if settings.command else wish
    machine = f"{format_size(settings.memory_bytes)}, {settings.bus.value}, {settings.firmware.value}"
    where = f" on {settings.proxy}" if settings.proxy else ""
    within = format_duration(settings.timeout_s)
    return f"each new point is started{where} ({machine}); it is up when {wish} within {within}"
