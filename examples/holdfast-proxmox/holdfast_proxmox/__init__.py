"""The hypervisor `proxmox`: virtual machines of Proxmox VE, by its API."""

from holdfast_plugins.api import Registry

from .driver import ProxmoxDriver
from .options import ProxmoxOptions

__all__ = ["ProxmoxDriver", "ProxmoxOptions", "holdfast_register_hypervisors"]


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "proxmox",
        ProxmoxDriver,
        summary="virtual machines of Proxmox VE, on ZFS and LVM-thin",
        options_type=ProxmoxOptions,
        api_version=1,
    )
