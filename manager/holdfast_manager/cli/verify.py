"""`holdfast verify …`."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.boot import BootBus, BootFirmware
from holdfast_agent.model.units import parse_duration, parse_size
from holdfast_manager.catalog.rows import checked
from holdfast_manager.catalog.values import BootSettings, SessionKind

from .app import App, pass_app
from .commands import Group
from .naming import chosen_point, point_options
from .running import detach_option, run_session
from .serving import serving_agent


@click.group(cls=Group)
def verify() -> None:
    """Proofs that a restored VM would work; `holdfast repository verify` checks the data themselves."""


@verify.command(
    examples=(
        "holdfast verify boot --vm web --point latest",
        "holdfast verify boot --point 3f2a1b0c --console 'login:' --timeout 10m --memory 2GiB",
        "holdfast verify boot --vm db --point latest --command 'pg_isready -q'",
        "holdfast verify boot --point 3f2a1b0c --bus sata --firmware uefi",
    )
)
@point_options
@click.option("--disk", "disks", multiple=True, help="Only these disks, by name or id; the first one boots.")
@click.option("--proxy", help="The agent that runs it. Default: the repository's own, if it is a proxy.")
@click.option("--console", metavar="TEXT", help="It is up when its serial console has said this. Default: its agent.")
@click.option("--command", metavar="TEXT", help="It is up when this ends with 0 in its shell, run by its agent.")
@click.option("--timeout", default="5m", show_default=True, help="Give up after so long.")
@click.option("--memory", default="1GiB", show_default=True, help="Of the guest.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the guest.")
@click.option(
    "--bus",
    type=click.Choice([bus.value for bus in BootBus]),
    default="virtio",
    show_default=True,
    help="How it sees its disks.",
)
@click.option(
    "--firmware",
    type=click.Choice([each.value for each in BootFirmware]),
    default="bios",
    show_default=True,
    help="What starts it.",
)
@click.option("--emulate", is_flag=True, help="Do not use the host's KVM: slow, but every host can.")
@detach_option
@pass_app
def boot(
    app: App,
    point: str,
    vm: str | None,
    repository: str | None,
    disks: tuple[str, ...],
    proxy: str | None,
    console: str | None,
    command: str | None,
    timeout: str,
    memory: str,
    cpus: int,
    bus: str,
    firmware: str,
    emulate: bool,
    detach: bool,
) -> int:
    """Start the VM of a restore point by QEMU, straight from the repository, and see whether it comes up.

    It has no network and nothing of its host, and what it writes is thrown away. It is up when its QEMU guest agent
    answers, its serial console says what --console names, or what --command names ends with 0 in it, which is tried
    until the time is over. Exits with 14 when it does not come up; its last screenshot is kept either way.
    """
    from holdfast_manager.sessions.requests import BootRequest

    if console and command:
        raise UsageError(reason="--console and --command exclude each other: give one of them")
    settings = BootSettings(
        memory_bytes=parse_size(memory),
        cpus=cpus,
        bus=BootBus(bus),
        firmware=BootFirmware(firmware),
        console=console or "",
        command=command or "",
        timeout_s=parse_duration(timeout),
        emulate=emulate,
    )
    row = chosen_point(app.catalog, point, vm, repository)
    request = BootRequest(
        repository=row.repository,
        sid=row.sid,
        proxy=serving_agent(app, row.repository, proxy),
        disks=disks,
        settings=checked(settings, "the options"),
    )
    begin = partial(app.catalog.sessions.begin, SessionKind.BOOT, msgspec.to_builtins(request))
    return run_session(app, begin, detach, strict=False)
