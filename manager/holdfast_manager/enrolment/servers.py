"""Servers: trying one by its plugin, and removing from it what crashed sessions left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from holdfast_agent.errors import RightsMissing
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.journal import fulfil_open
from holdfast_manager.catalog.values import ServerEntry
from holdfast_manager.host import PluginHost
from holdfast_plugins.api import ChecksRights, HypervisorDriver, VmRef


@contextmanager
def connected_driver(host: PluginHost, server: ServerEntry, secret: Mapping[str, str]) -> Iterator[HypervisorDriver]:
    """A connected driver of ``server``. Raises ``PluginMissing``, ``ConfigError``, ``HypervisorUnreachable``."""
    driver = host.hypervisor(server.plugin, server.options, secret, f"options of server {server.name!r}")
    try:
        driver.connect()
        yield driver
    finally:
        driver.close()


def try_server(
    host: PluginHost, server: ServerEntry, secret: Mapping[str, str], lacking_rights: bool = False
) -> tuple[VmRef, ...]:
    """Connect and list the VMs, by name. ``lacking_rights``: though the user may not do all that backups need.

    Raises :class:`RightsMissing` where that was not asked for, and what connecting raises.
    """
    with connected_driver(host, server, secret) as driver:
        missing = driver.missing_rights() if isinstance(driver, ChecksRights) and not lacking_rights else ()
        if missing:
            raise RightsMissing(server=server.name, missing="; ".join(missing))
        return tuple(sorted(driver.list_vms(), key=lambda vm: (vm.name, vm.vm_id)))


def clean(host: PluginHost, catalog: Catalog, name: str) -> tuple[int, list[str]]:
    """Remove from a server what sessions that are over left behind.

    Returns how many things were removed, and a sentence for each that could not be: it stays written down for the
    next one. Raises ``NotFound`` for the server and what connecting to it raises.
    """
    server = catalog.servers.get(name)
    catalog.sessions.reap_dead()
    if not catalog.obligations.open_of(server=name):
        return 0, []
    with connected_driver(host, server, catalog.servers.secret(name)) as driver:
        return fulfil_open(catalog, driver, name)
