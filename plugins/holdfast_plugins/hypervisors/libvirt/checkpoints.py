"""Holdfast's checkpoints of a domain: each tracks what changes since one snapshot, by a dirty bitmap in every image.

libvirt keeps the list of checkpoints, the images keep the bitmaps, and the two come apart: QEMU was killed, the domain
was migrated or defined anew, an image was put in the place of another. What is left of either is removed here. Names
that are not Holdfast's are never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement

from ..tracking_names import TrackingName, parse_tracking_name, superseded
from .binding import LibvirtRefused
from .definition import Disk, parse, unparse
from .domain import Domain
from .images import ToolFailed, bitmaps_in

log = logging.getLogger(__name__)


def checkpoint_xml(name: str, tag: str, tracked: Iterable[str]) -> str:
    """A new checkpoint for the disks ``tracked``. ``tag``: whose it is, for people."""
    root = Element("domaincheckpoint")
    SubElement(root, "name").text = name
    SubElement(root, "description").text = tag
    _add_disks(root, tracked)
    return unparse(root)


def covers(domain: Domain, name: str, target: str) -> bool:
    """Whether a checkpoint has a bitmap for a disk."""
    return target in _disks_in(domain, name)


def rotate(
    domain: Domain, newest: TrackingName, disks: Sequence[Disk], before: Mapping[str, str], images_at_hand: bool
) -> None:
    """The point of ``newest`` exists: drop what it takes the place of. Called while the domain runs.

    ``before``: by disk the change id of its base. ``images_at_hand``: the images of ``disks`` can be looked at, so that
    bitmaps are found that no checkpoint has.
    """
    known = domain.checkpoints()
    for name in superseded(known, newest):
        drop(domain, name)
    for disk in disks:
        orphans = {before[disk.target]} if disk.target in before else set()
        if images_at_hand:
            orphans.update(_bitmaps_in(disk))
        for name in orphans.difference(known):
            if disk.tracks and parse_tracking_name(name) is not None:
                _drop_bitmap(domain, name, disk.target)


def drop(domain: Domain, name: str) -> None:
    """Delete a checkpoint with all that is left of its bitmaps. Idempotent. Called while the domain runs."""
    if name not in domain.checkpoints():
        return
    try:
        domain.delete_checkpoint(name)
        return
    except LibvirtRefused as error:  # of one of its disks the bitmap is gone, and then libvirt deletes nothing
        log.info("checkpoint %s of %s: %s", name, domain.vm.name, error)
    disks = _disks_in(domain, name)
    domain.delete_checkpoint(name, metadata_only=True)
    for target in disks:
        _drop_bitmap(domain, name, target)


def _drop_bitmap(domain: Domain, name: str, target: str) -> None:
    """Remove the bitmap ``name`` of one disk by a checkpoint that is made known for that purpose alone."""
    root = Element("domaincheckpoint")
    SubElement(root, "name").text = name
    SubElement(root, "creationTime").text = "1"
    _add_disks(root, [target])
    root.append(parse(domain.xml()))
    try:
        domain.redefine_checkpoint(unparse(root))
    except LibvirtRefused as error:
        log.info("the bitmap %s of %s cannot be removed: %s", name, target, error)
        return
    try:
        domain.delete_checkpoint(name)
    except LibvirtRefused:  # there is no such bitmap
        domain.delete_checkpoint(name, metadata_only=True)


def _disks_in(domain: Domain, name: str) -> list[str]:
    root = parse(domain.checkpoint_xml(name))
    return [disk.get("name", "") for disk in root.iterfind("./disks/disk") if disk.get("checkpoint") == "bitmap"]


def _add_disks(root: Element, tracked: Iterable[str]) -> None:
    """Disks that are not listed do not take part."""
    disks = SubElement(root, "disks")
    for target in sorted(tracked):
        SubElement(disks, "disk", name=target, checkpoint="bitmap")


def _bitmaps_in(disk: Disk) -> list[str]:
    """The bitmaps stored in a disk's image; none where that cannot be told."""
    if not disk.tracks or not disk.top.place:
        return []
    try:
        return bitmaps_in(disk.top.place)
    except ToolFailed as error:
        log.info("bitmaps of %s cannot be listed: %s", disk.top.place, error)
        return []
