"""The options that describe a job, shared by `job create` and `job edit`, and the table that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from holdfast_agent.errors import UsageError
from holdfast_agent.model.rules import Compression
from holdfast_manager.catalog.values import GuestPolicy, JobSpec, OnCbtLoss, Priority, ServerEntry
from holdfast_manager.host import PluginHost
from holdfast_plugins.api.registry import Family

from .boot_options import boot_options, boot_table, without_boot
from .retention_options import retention_options, retention_table, without_retention
from .schedule_options import schedule_options, schedule_table, without_schedule
from .server import option_table

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--server", metavar="NAME", help="The server whose VMs are backed up."),
    click.option("--include", multiple=True, metavar="VM", help="A VM, 'web-*', or a place like 'tag:backup/*'."),
    click.option("--exclude", multiple=True, metavar="VM", help="VMs to leave out, in the same way."),
    click.option("--repository", metavar="NAME", help="Where restore points go."),
    click.option("--proxy", "proxies", multiple=True, metavar="AGENT", help="A preferred proxy (repeatable)."),
    click.option("--compression", type=click.Choice([each.value for each in Compression]), help="Default: lz4."),
    click.option("--block-size", metavar="SIZE", help="64 KiB to 4 MiB, a power of two. Default: 1 MiB."),
    click.option("--bandwidth", metavar="RATE", help='Limit of the whole job per second, such as "50 MiB".'),
    click.option("--streams", type=int, help="Connections per task, 1 to 16. Default: 1; 5 pay on long lines."),
    click.option("--retries", type=int, help="Of failed tasks, 0 to 20. Default: 3."),
    click.option("--retry-pause", metavar="TIME", help='Before each retry, such as "30 s" (the default).'),
    click.option("--guest-processor", metavar="PLUGIN", help="Quiesces guests; `holdfast plugin list` shows them."),
    click.option("--guest-policy", type=click.Choice([each.value for each in GuestPolicy]), help="Default: require."),
    click.option("--guest-option", "guest_options", multiple=True, metavar="KEY=VALUE", help="For that processor."),
    click.option("--on-cbt-loss", type=click.Choice([each.value for each in OnCbtLoss]), help="Default: digest."),
    click.option("--audit", metavar="N", help="Unchanged blocks to compare each run, or '1 %'. Default: 64; 0: none."),
    click.option("--skip-unused/--no-skip-unused", default=None, help="Leave out free blocks. Default: kept."),
    click.option("--priority", type=click.Choice([each.value for each in Priority]), help="In the queue for slots."),
    click.option("--max-tasks", type=int, help="Disks at once, 1 to 1024. Default: as many as there are slots for."),
    click.option("--snapshot-option", "snapshot", multiple=True, metavar="KEY=VALUE", help="For the server's plugin."),
    click.option("--copy-from", metavar="REPOSITORY", help="Copy its restore points, rather than back VMs up."),
    click.option("--copy-job", "copy_jobs", multiple=True, metavar="JOB", help="Only points of this job, or pattern."),
    click.option("--copy-suspect/--no-copy-suspect", default=None, help="Copy suspect points, too. Default: no."),
    click.option("--description", metavar="TEXT", help="For people."),
)  # fmt: skip


def job_options(function: F) -> F:
    """Decorator: all options of a job; the command takes them as ``**given`` for ``given_table``."""
    function = retention_options(schedule_options(boot_options(function)))
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def given_table(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, as a job's table; what was not given is not in it. Raises :class:`UsageError`."""
    lists = {"include", "exclude", "proxies"}
    others = without_boot(without_schedule(without_retention(given))).items()
    table = {key: list(value) if key in lists else value for key, value in others if value not in (None, ())}
    if "snapshot" in table:
        table["snapshot"] = option_table(given["snapshot"], "--snapshot-option")
    guest = {
        key: table.pop(option)
        for key, option in (("processor", "guest_processor"), ("policy", "guest_policy"), ("options", "guest_options"))
        if option in table
    }
    if "options" in guest:
        guest["options"] = option_table(given["guest_options"], "--guest-option")
    copy = {
        key: list(table.pop(option)) if option == "copy_jobs" else table.pop(option)
        for key, option in (("from", "copy_from"), ("jobs", "copy_jobs"), ("suspect", "copy_suspect"))
        if option in table
    }
    inner = {"guest": guest, "copy": copy, "retention": retention_table(given), "schedule": schedule_table(given)}
    boot = boot_table(given)
    table |= {"verify_boot": boot} if boot is not None else {}
    return table | {key: settings for key, settings in inner.items() if settings}


def merged(current: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A job's table with ``change`` in it; of the tables in it what is not given stays."""
    table = current | change
    for key in ("guest", "copy", "retention", "schedule", "verify_boot"):
        if key in change:
            table[key] = {**current.get(key, {}), **change[key]}
    return table


def without(table: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """``table`` with ``keys`` back at their defaults. Raises :class:`UsageError` for what is no key of a job."""
    known = [name.replace("_", "-") for name in JobSpec.__struct_encode_fields__ if name not in ("name", "server")]
    for key in keys:
        if key not in known:
            raise UsageError(reason=f"--reset {key}: there are {', '.join(known)}")
    return {key: value for key, value in table.items() if key.replace("_", "-") not in keys}


def check_plugin_options(host: PluginHost, server: ServerEntry, spec: JobSpec) -> None:
    """Check those options of a job that belong to plugins. Raises ``ConfigError`` or ``PluginMissing``."""
    host.snapshot_options(server.plugin, spec.snapshot, f"snapshot options of job {spec.name!r}")
    if spec.guest is not None:
        where = f"guest options of job {spec.name!r}"
        host.check_options(Family.GUEST_PROCESSOR, spec.guest.processor, spec.guest.options, where)
