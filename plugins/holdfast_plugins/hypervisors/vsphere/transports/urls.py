"""Disk URLs of vSphere's disks, for each way to them."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from holdfast_agent.model.disk_url import DiskScheme, DiskUrl, file_url

_APPEARS_WITHIN_S = 30
"""An operating system notices a disk that was attached within a second or two, if it notices it at all."""


def folder_url(origin: str, center: str, datastore: str, path: str) -> str:
    """The URL of a file in a datastore (vSphere Web Services SDK Programming Guide: datastore access by HTTP)."""
    query = urlencode({"dcPath": center, "dsName": datastore}, quote_via=quote)
    return f"{origin}/folder/{quote(path)}?{query}"


def flat_path(descriptor: str) -> str:
    """Where the bytes of a disk are: "web.vmdk" describes what is in "web-flat.vmdk"."""
    return f"{descriptor.removesuffix('.vmdk')}-flat.vmdk"


def flat_url(origin: str, center: str, datastore: str, descriptor: str) -> str:
    """The URL of the bytes of a disk."""
    return folder_url(origin, center, datastore, flat_path(descriptor))


def mounted_url(mount: str, descriptor: str) -> str:
    """The same file on a proxy that has the datastore mounted at ``mount``."""
    return str(file_url(f"{mount.rstrip('/')}/{flat_path(descriptor)}"))


def device_url(uuid: str) -> str:
    """The disk on a proxy to whose VM it is attached: udev names it by its identifier of VPD page 0x83, which is the
    disk's UUID where the VM has disk.EnableUUID."""
    name = f"/dev/disk/by-id/wwn-0x{uuid.replace('-', '').lower()}"
    return str(DiskUrl(DiskScheme.BLOCK, name, (("wait", str(_APPEARS_WITHIN_S)),)))


def vddk_url(host: str, port: int, vm: str, snapshot: str, name: str) -> str:
    """The disk through VMware's development kit. ``vm`` and ``snapshot``: object ids; ``name``: "[datastore] path".

    Without a snapshot it is the VM's own, to be written.
    """
    options = (("snapshot", snapshot), ("transports", "nbdssl:nbd"), ("vm", vm))[0 if snapshot else 1 :]
    return str(DiskUrl(DiskScheme.VDDK, f"/{name}", options, host.lower(), port))
