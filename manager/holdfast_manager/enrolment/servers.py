"""Servers: trying one by its plugin, and removing from it what crashed sessions left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import Obligation, ServerEntry
from holdfast_manager.host import PluginHost
from holdfast_plugins.api import HypervisorDriver, VmRef


class CleanUp(msgspec.Struct, frozen=True):
    """What became of one obligation. ``error`` is None when it is fulfilled."""

    obligation: Obligation
    error: HoldfastError | None


@contextmanager
def connected_driver(host: PluginHost, server: ServerEntry, secret: Mapping[str, str]) -> Iterator[HypervisorDriver]:
    """A connected driver of ``server``. Raises ``PluginMissing``, ``ConfigError``, ``HypervisorUnreachable``."""
    driver = host.hypervisor(server.plugin, server.options, secret, f"options of server {server.name!r}")
    try:
        driver.connect()
        yield driver
    finally:
        driver.close()


def try_server(host: PluginHost, server: ServerEntry, secret: Mapping[str, str]) -> tuple[VmRef, ...]:
    """Connect and list the VMs, by name."""
    with connected_driver(host, server, secret) as driver:
        return tuple(sorted(driver.list_vms(), key=lambda vm: (vm.name, vm.vm_id)))


def clean(host: PluginHost, catalog: Catalog, name: str) -> list[CleanUp]:
    """Fulfil the open obligations of sessions that have ended, newest first; those of living sessions are theirs.

    One that fails stays open, with its error, and does not stop the others. Raises ``NotFound`` for the server and
    what connecting to it raises.
    """
    server = catalog.servers.get(name)
    catalog.sessions.reap_dead()
    living = {session.id for session in catalog.sessions.living()}
    owed = [each for each in catalog.obligations.open_of(server=name) if each.session not in living]
    if not owed:
        return []
    with connected_driver(host, server, catalog.servers.secret(name)) as driver:
        return [_fulfil(driver, catalog, obligation) for obligation in owed]


def _fulfil(driver: HypervisorDriver, catalog: Catalog, obligation: Obligation) -> CleanUp:
    try:
        driver.fulfil(obligation.kind, obligation.data)
    except HoldfastError as error:
        catalog.obligations.failed(obligation.id, error)
        return CleanUp(obligation, error)
    catalog.obligations.strike(obligation.id)
    return CleanUp(obligation, None)
