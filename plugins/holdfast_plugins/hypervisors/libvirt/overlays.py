"""Snapshots by overlays: the guest writes to a new image over each disk while the disk itself is read.

Afterwards what was written is brought down into the disk, the guest goes on with that, and the overlay's file is
removed: by libvirt at the end of its commit, and by us in all other cases. Whatever has happened meanwhile, an overlay
is only removed when neither the running domain nor its definition names it any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from holdfast_agent.errors import DiskUnsupported
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl, file_url

from .binding import Code, LibvirtRefused
from .connection import Connection
from .definition import Disk, Layer, disk_elements, disks_of, parse, target_of, unparse
from .domain import Domain
from .images import describe, run_tool

_ROUNDS = 3
_STEP_S = 0.02
_COMMIT_TIMEOUT_S = 24 * 3600.0
_URL_FORMATS = frozenset({"qcow2", "raw"})


def base_url(disk: Disk, layer: Layer) -> str:
    """Where an agent on the hypervisor's host reads an image of ``disk``. Raises :class:`DiskUnsupported`."""
    if layer.format in _URL_FORMATS and layer.place and layer.kind in ("file", "block"):
        if layer.format == "qcow2":
            return str(DiskUrl(DiskScheme.IMAGE, layer.place, (("format", "qcow2"),)))
        if layer.kind == "block":
            return str(DiskUrl(DiskScheme.BLOCK, layer.place))
        return str(file_url(layer.place))
    reason = f"its image ({layer.kind}, {layer.format}) cannot be read beside QEMU"
    raise DiskUnsupported(disk=disk.target, reason=reason, advice='Use method = "backup", and keep the VM running')


def snapshot_xml(overlays: Mapping[str, Path], all_targets: Iterable[str]) -> str:
    """An external snapshot that puts ``overlays`` over disks, by target, and touches no other."""
    root = Element("domainsnapshot")
    disks = SubElement(root, "disks")
    for target in all_targets:
        path = overlays.get(target)
        if path is None:
            SubElement(disks, "disk", name=target, snapshot="no")
            continue
        element = SubElement(disks, "disk", name=target, snapshot="external", type="file")
        SubElement(element, "driver", type="qcow2")
        SubElement(element, "source", file=str(path))
    return unparse(root)


def settle(connection: Connection, domain: Domain, overlays: Mapping[str, Path], patience_s: float) -> None:
    """Bring every overlay down and remove it, wherever it stands now. Idempotent; to be repeated after any error.

    ``patience_s``: for which a running commit may make no progress. Raises :class:`LibvirtRefused`,
    :class:`ToolFailed` or ``OSError``.
    """
    for target, path in overlays.items():
        for _ in range(_ROUNDS):  # the domain may be started or stopped between a look and the act
            if domain.active:
                _commit_running(domain, target, str(path), patience_s)
            if domain.persistent and not domain.active:
                _commit_resting(connection, domain, target, str(path))
            if not _named(domain, str(path)):
                break
        else:
            raise LibvirtRefused(Code.OPERATION_INVALID, f"{path} is still in use by disk {target}")
        if connection.is_local:
            path.unlink(missing_ok=True)


def _commit_running(domain: Domain, target: str, path: str, patience_s: float) -> None:
    disk = _disk(domain, target, inactive=False)
    if disk is None or path not in [layer.place for layer in disk.layers]:
        return
    on_top = disk.top.place == path
    if domain.block_job(target) is None:  # else one that a killed session began
        if on_top:
            domain.commit_top(target)
        else:
            domain.commit_middle(target, path)
    _wait_progressing(domain, target, patience_s)
    if on_top:
        domain.pivot(target)
    domain.wait(lambda: domain.block_job(target) is None, "the commit has not ended", patience_s)


def _wait_progressing(domain: Domain, target: str, patience_s: float) -> None:
    """Until the job is ready to pivot, or gone; as long as it takes while it goes on."""
    last, moved = None, time.monotonic()
    while True:
        now = domain.block_job(target)
        disk = _disk(domain, target, inactive=False)
        if now is None or (disk is not None and disk.mirror):
            return
        if now != last:
            last, moved = now, time.monotonic()
        if time.monotonic() - moved > patience_s:
            raise LibvirtRefused(Code.OPERATION_TIMEOUT, f"the commit of {target} stands still for {patience_s:g} s")
        time.sleep(_STEP_S)


def _commit_resting(connection: Connection, domain: Domain, target: str, path: str) -> None:
    """The domain was shut off while it had the overlay: bring it down by hand, then define the domain without it.

    QEMU's locks on the images keep a start away meanwhile; one in between starts with an overlay that is empty.
    """
    if not _named(domain, path):
        return
    if not connection.is_local:
        reason = f"{path} is brought down once the VM runs again, for its host is not this one"
        raise LibvirtRefused(Code.OPERATION_INVALID, reason)
    below = _layer_below(path)
    run_tool(["qemu-img", "commit", "-q", "-f", "qcow2", path], _COMMIT_TIMEOUT_S)
    if domain.saved:  # its memory goes on by a definition of its own
        domain.change_saved(_without(domain.saved_xml(), target, path, below))
    connection.define(_without(domain.whole_xml(), target, path, below))


def _without(xml: str, target: str, path: str, below: Layer) -> str:
    """A definition in which a disk that has the overlay ``path`` on top has what lies under it instead."""
    root = parse(xml)
    for element, disk in zip(disk_elements(root), disks_of(xml, refuse=False), strict=True):
        if target_of(element) == target and disk.top.place == path:
            _point_to(element, below)
    return unparse(root)


def _layer_below(path: str) -> Layer:
    image = describe(path)
    below = str(image["full-backing-filename"])
    kind = "block" if Path(below).is_block_device() else "file"
    return Layer(kind, str(image["backing-filename-format"]), below)


def _point_to(element: Element, layer: Layer) -> None:
    element.set("type", layer.kind)
    for child in ("source", "backingStore"):
        found = element.find(child)
        if found is not None:
            element.remove(found)
    SubElement(element, "source", {"file" if layer.kind == "file" else "dev": layer.place})
    driver = element.find("driver")
    if driver is not None:
        driver.set("type", layer.format)


def _disk(domain: Domain, target: str, *, inactive: bool) -> Disk | None:
    return next((disk for disk in disks_of(domain.xml(inactive=inactive)) if disk.target == target), None)


def _named(domain: Domain, path: str) -> bool:
    """Whether the domain as it runs, or as it starts next, uses the image."""
    texts = [domain.xml(), domain.xml(inactive=True)] if domain.persistent else [domain.xml()]
    if domain.saved:
        texts.append(domain.saved_xml())
    return any(layer.place == path for text in texts for disk in disks_of(text) for layer in disk.layers)
