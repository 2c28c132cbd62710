"""The manager's own things: its directory, its keys, its plugins, its service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.units import MIB, format_size
from holdfast_manager.catalog import Catalog
from holdfast_manager.host import PluginHost, PluginStatus
from holdfast_manager.reports.sentences import counted
from holdfast_manager.settings import ManagerSettings

from .findings import Finding, good, missing, of_error, problem, warning

LITTLE_ROOM_BYTES = 256 * MIB
"""The catalogue of a year of nightly backups of a hundred VMs takes some 100 MiB, logs as much."""


def examine_home(settings: ManagerSettings) -> Iterator[Finding]:
    """The data directory and the keys in it."""
    home = settings.home
    if not home.is_dir():
        yield missing("data directory", f"{home} is not there", "holdfast init")
        return
    open_files = [
        path.name
        for path in (settings.sealing_key_file, settings.identity_file, settings.catalog_file)
        if path.exists() and path.stat().st_mode & 0o077
    ]
    if open_files:
        command = f"chmod 600 {' '.join(str(home / name) for name in open_files)}"
        yield problem("data directory", f"others can read {', '.join(open_files)} in {home}", command)
    free = shutil.disk_usage(home).free
    if free < LITTLE_ROOM_BYTES:
        yield warning("data directory", f"only {format_size(free)} are free in {home}", "Give it room")
    if not open_files and free >= LITTLE_ROOM_BYTES:
        yield good("data directory", f"{home}, {format_size(free)} free")
    try:
        KeyPair.load(settings.identity_file)
    except HoldfastError as error:
        yield of_error("keys", error, "holdfast init")
        return
    if settings.sealing_key_file.exists():
        yield good("keys", "the manager's own, and the one that seals secrets")
    else:
        text = f"{settings.sealing_key_file} is missing: no sealed passphrase or credential can be read"
        yield problem("keys", text, "Bring it back from a copy, or give all secrets again")


def examine_plugins(host: PluginHost) -> Iterator[Finding]:
    """Those that are broken, or old."""
    reports = host.report()
    for report in reports:
        subject = f"plugin {report.name}"
        if report.error is not None:
            yield warning(subject, report.error.message, report.error.action)
        elif report.status is PluginStatus.ABSENT:
            yield warning(subject, "plugins.disabled names it, and it is not installed", "Take it out of the list")
        for text in report.warnings:
            yield warning(subject, text, "Ask its author for a newer one")
    loaded = sum(report.status is PluginStatus.LOADED for report in reports)
    yield good("plugins", f"{loaded} loaded")


def examine_service(catalog: Catalog, leads: bool) -> Iterator[Finding]:
    """Whether somebody starts the jobs that have a schedule."""
    scheduled = [job.name for job in catalog.jobs.list() if job.schedule is not None]
    if leads:
        yield good("service", f"runs; {counted(len(scheduled), 'job')} by schedule")
    elif scheduled:
        text = f"no service runs, so that nobody starts {', '.join(scheduled[:5])}"
        yield problem("service", text, "systemctl enable --now holdfast, or holdfast service run")
    owed = catalog.obligations.open_of()
    for server in sorted({each.server for each in owed}):
        count = sum(each.server == server for each in owed)
        advice = f"The service removes them; now: holdfast server clean {server}"
        yield warning(f"server {server}", f"{counted(count, 'thing')} that dead sessions left", advice)
