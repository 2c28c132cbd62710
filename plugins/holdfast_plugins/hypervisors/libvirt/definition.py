"""Domain XML as far as a backup needs it: which disks there are, and where their images lie."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator

import msgspec

from holdfast_agent.errors import DiskUnsupported

_LONGEST_XML = 4 << 20


class Layer(msgspec.Struct, frozen=True):
    """One image of a disk. ``kind``: libvirt's, such as file or block. ``place``: its path, where it has one.

    ``index``: by which libvirt names its block node in a running QEMU ("libvirt-3-format").
    """

    kind: str
    format: str
    place: str = ""
    index: str = ""


class Disk(msgspec.Struct, frozen=True):
    """A disk that a guest can write to. ``target``: such as "vda". ``layers``: from the one that is written to down.

    ``mirror``: the kind of block job whose end is awaited ("active-commit", …) when it is ready for it; else empty.
    """

    target: str
    layers: tuple[Layer, ...]
    mirror: str = ""

    @property
    def top(self) -> Layer:
        return self.layers[0]

    @property
    def tracks(self) -> bool:
        """Whether its image can keep dirty bitmaps."""
        return self.top.format == "qcow2"


def parse(text: str) -> ElementTree.Element:
    """Any XML of libvirt's. Raises ``ValueError``.

    What libvirt says was written by its administrators, and is bounded; expat bounds how entities may expand.
    """
    if len(text) > _LONGEST_XML:
        raise ValueError("a definition of more than 4 MiB")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 (see above)
    except ElementTree.ParseError as error:
        raise ValueError(f"no XML: {error}") from error


def unparse(root: ElementTree.Element) -> str:
    return ElementTree.tostring(root, encoding="unicode")


def disks_of(text: str, skipped: Callable[[str], bool] = lambda target: False, *, refuse: bool = True) -> list[Disk]:
    """The disks in a domain's XML, in its order; drives of removable media and read-only disks are left out.

    ``skipped``: whether a target is left out, too. Raises :class:`DiskUnsupported` for a disk that a guest writes to
    but whose content QEMU does not see, unless ``refuse`` is false.
    """
    elements = [element for element in disk_elements(parse(text)) if not skipped(target_of(element))]
    for element in elements if refuse else ():
        if element.get("device") == "lun":
            target, reason = target_of(element), "it is a device that the guest commands itself (device='lun')"
            raise DiskUnsupported(disk=target, reason=reason, advice=f'Leave it out: skip = ["VM/{target}"]')
    return [_disk(element) for element in elements]


def has_io_threads(text: str) -> bool:
    """Whether the domain in this XML may serve disks from threads of their own."""
    return parse(text).findtext("./iothreads", "0").strip() not in ("", "0")


def disk_elements(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """The elements of the disks that :func:`disks_of` tells of, and of those it refuses."""
    for element in root.iterfind("./devices/disk"):
        if element.get("device", "disk") in ("disk", "lun") and element.find("readonly") is None:
            yield element


def target_of(element: ElementTree.Element) -> str:
    """The name of a disk's element in its domain."""
    target = element.find("target")
    return target.get("dev", "") if target is not None else ""


def _disk(element: ElementTree.Element) -> Disk:
    target, mirror = target_of(element), element.find("mirror")
    ready = mirror is not None and mirror.get("ready") == "yes"
    return Disk(target, tuple(_layers(element)), mirror.get("job", "") if mirror is not None and ready else "")


def _layers(element: ElementTree.Element) -> Iterator[Layer]:
    driver = element.find("driver")
    yield _layer(element, driver.get("type", "raw") if driver is not None else "raw")
    backing = element.find("backingStore")
    while backing is not None and backing.find("source") is not None:
        image_format = backing.find("format")
        yield _layer(backing, image_format.get("type", "raw") if image_format is not None else "raw")
        backing = backing.find("backingStore")


def _layer(element: ElementTree.Element, image_format: str) -> Layer:
    source = element.find("source")
    told = {} if source is None else source.attrib
    place = told.get("file") or told.get("dev") or ""
    return Layer(element.get("type", "file"), image_format, place, told.get("index", ""))
