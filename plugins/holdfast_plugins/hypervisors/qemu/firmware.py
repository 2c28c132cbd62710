"""The variables of UEFI firmware: a flash chip with its own image, where a guest keeps how its boot loader is found.

It is no disk; its content goes with the description of its VM, and comes back beside the restored disks.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .monitor import Monitor

_FLASH = frozenset({"cfi.pflash01", "cfi.pflash02"})
_RAW = frozenset({"raw", "file"})
_MOST_BYTES = 2 << 20


class Firmware(msgspec.Struct, frozen=True):
    """A chip that the guest can write to.

    ``image``: the file as QEMU names it; ``content``: as base64; ``missed``: why there is none.
    """

    image: str
    content: str = ""
    missed: str = ""

    @property
    def told(self) -> str:
        """What a restore point lacks of it; empty where it has all."""
        return f"the variables of its UEFI firmware ({self.image}: {self.missed})" if self.missed else ""


def is_flash(kind: str) -> bool:
    """``kind``: the type of a device, as QEMU's object model has it."""
    return kind in _FLASH


def kind_of(monitor: Monitor, device: str) -> str:
    """The type of the device that `query-block` calls ``device``."""
    path = device if device.startswith("/") else f"/machine/peripheral/{device}"
    return str(monitor.run("qom-get", {"path": path, "property": "type"}))


def firmware_of(monitor: Monitor) -> tuple[Firmware, ...]:
    """All of a VM, read now."""
    return tuple(_read(monitor, told["inserted"]) for told in _writable_chips(monitor))


def file_names(firmware: Sequence[Firmware]) -> dict[str, str]:
    """By the original's image, what the file beside the restored disks is called."""
    kept = [chip.image for chip in firmware if chip.content]
    return {image: f"firmware-{number}.fd" for number, image in enumerate(kept)}


def write_firmware(folder: Path, firmware: Sequence[Firmware]) -> None:
    """Put what a point has into the folder of a restored VM. Raises ``OSError``."""
    names = file_names(firmware)
    for chip in firmware:
        if chip.image in names:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(folder / names[chip.image], flags, 0o600), "wb") as file:
                file.write(base64.b64decode(chip.content))
                file.flush()
                os.fsync(file.fileno())


def _writable_chips(monitor: Monitor) -> Iterator[dict[str, Any]]:
    for told in monitor.run("query-block"):
        inserted, device = told.get("inserted"), told.get("qdev", "")
        if inserted is None or inserted["ro"] or told["removable"] or not device:
            continue
        if is_flash(kind_of(monitor, device)):
            yield told


def _read(monitor: Monitor, inserted: dict[str, Any]) -> Firmware:
    image = str(inserted["image"]["filename"])
    if inserted["drv"] not in _RAW:
        return Firmware(image, missed=f"an image of the format {inserted['drv']}, which is not raw")
    process = monitor.process()
    try:
        # Where QEMU has it open: a name without a folder is one in QEMU's own.
        place = Path(image) if process is None else Path(f"/proc/{process}/cwd", image)
        with place.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        return Firmware(image, missed=error.strerror or str(error))
    if not 0 < len(content) <= _MOST_BYTES:
        return Firmware(image, missed=f"it is no file of at most {_MOST_BYTES >> 20} MiB")
    return Firmware(image, base64.b64encode(content).decode())
