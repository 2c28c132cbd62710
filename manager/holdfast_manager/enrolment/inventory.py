"""The VMs of all servers."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog import Catalog
from holdfast_manager.host import PluginHost
from holdfast_plugins.api import VmRef

from .servers import connected_driver


def vms_of_servers(host: PluginHost, catalog: Catalog) -> tuple[dict[str, Sequence[VmRef]], dict[str, str]]:
    """The VMs of all servers that answer, and why others do not. Takes as long as the servers do."""
    found: dict[str, Sequence[VmRef]] = {}
    silent: dict[str, str] = {}
    for entry in catalog.servers.list():
        try:
            with connected_driver(host, entry, catalog.servers.secret(entry.name)) as driver:
                found[entry.name] = driver.list_vms()
        except HoldfastError as error:
            silent[entry.name] = error.text
    return found, silent
