"""What a guest sees of the machine in which its restore point is proven to boot."""

from __future__ import annotations

from enum import StrEnum


class BootBus(StrEnum):
    """How the guest of a boot proof sees its disks: it needs a driver for that before it can do anything."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"


class BootFirmware(StrEnum):
    """What starts it."""

    BIOS = "bios"
    UEFI = "uefi"
