"""Disks that a definition names by a storage pool and a volume in it: where they really lie is asked of libvirt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from holdfast_agent.errors import DiskUnsupported

from .binding import LibvirtRefused
from .definition import disk_elements, parse, target_of, unparse

if TYPE_CHECKING:
    from .connection import Connection

_PLACES = {0: ("file", "file"), 1: ("block", "dev")}
"""By the kind of a volume (virStorageVolType: file, block) the disk's type, and the attribute of its source."""


def resolved(connection: Connection, xml: str) -> str:
    """The domain's XML with files and devices in the place of volumes.

    One that cannot be found now, such as in a pool that is not active, stays a "volume": QEMU may have it open.
    """
    if "volume=" not in xml:
        return xml
    root = parse(xml)
    for element, source, pool, name in _volumes(root):
        try:
            kind, path = _asked(connection, pool, name, lambda volume: (volume.info()[0], volume.path()))
        except LibvirtRefused:
            continue
        if kind not in _PLACES:  # of a network
            element.set("type", "network")
            continue
        element.set("type", _PLACES[kind][0])
        for attribute in ("pool", "volume", "mode"):
            source.attrib.pop(attribute, None)
        source.set(_PLACES[kind][1], path)
    return unparse(root)


def capacity_bytes(connection: Connection, xml: str, target: str) -> int | None:
    """Of the volume that a disk is, as libvirt has just looked; None for a disk that is none.

    Raises :class:`DiskUnsupported` for one that is not there.
    """
    for element, _, pool, name in _volumes(parse(xml)):
        if target_of(element) == target:
            try:
                return int(_asked(connection, pool, name, lambda volume: volume.info()[1]))
            except LibvirtRefused as error:
                reason = f"the volume {name} of the pool {pool} cannot be found: {error}"
                raise DiskUnsupported(disk=target, reason=reason, advice=f"`virsh pool-start {pool}`") from error
    return None


def _volumes(root: Element) -> list[tuple[Element, Element, str, str]]:
    """Disks that are volumes, with their sources, pools, and names."""
    found = ((element, element.find("source")) for element in disk_elements(root) if element.get("type") == "volume")
    return [
        (element, source, source.get("pool", ""), source.get("volume", ""))
        for element, source in found
        if source is not None
    ]


def _asked(connection: Connection, pool: str, name: str, question: Callable[[Any], Any]) -> Any:
    return connection.ask(lambda raw: question(raw.storagePoolLookupByName(pool).storageVolLookupByName(name)))
