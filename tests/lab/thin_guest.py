"""The first process of a User-mode Linux that makes thin volumes of LVM, for :mod:`lab.thin_volumes`."""

from __future__ import annotations

import os
from pathlib import Path

from .uml_guest import first_process, load_modules, mount, run

GROUP, VOLUME, SNAPSHOT = "vg", "root", "before"
_CONFIG = (
    'devices { use_devicesfile=0 scan=["/dev"] types=["ubd",16] } '
    'global { use_lvmpolld=0 event_activation=0 thin_check_executable="" } '
    "activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 monitoring=0 } "
    "backup { backup=0 archive=0 }"
)
_CHUNK = 64 << 10


def main(contents: list[str]) -> int:
    """Two images of one size: of what is in the volume at first, when the snapshot is made, and of what in the end."""
    mount("tmpfs", Path("/run"), "tmpfs")
    load_modules("dm-mod", "dm-thin-pool", "dm-snapshot")  # the last one for LVM, which asks for it
    disks = ("/dev/ubda", "/dev/ubdb")
    size = Path(contents[0]).stat().st_size
    lvm("pvcreate", *disks)
    lvm("vgcreate", "--physicalextentsize", "1m", GROUP, *disks)
    pool = ("--size", "32m", "--chunksize", "64k", "--poolmetadatasize", "2m", "--poolmetadataspare", "n")
    lvm("lvcreate", "--type", "thin-pool", *pool, "--name", "pool", GROUP)
    lvm("lvcreate", "--type", "thin", "--virtualsize", f"{size}b", "--name", VOLUME, "--thinpool", "pool", GROUP)
    device = Path(f"/dev/mapper/{GROUP}-{VOLUME}")
    copy(Path(contents[0]), None, device)
    lvm("lvcreate", "--snapshot", "--name", SNAPSHOT, f"{GROUP}/{VOLUME}")
    copy(Path(contents[1]), Path(contents[0]), device)
    lvm("vgchange", "--activate", "n", GROUP)
    return 0


def copy(image: Path, known: Path | None, device: Path) -> None:
    """What differs from what is ``known`` to be there; at first, from nothing."""
    old = known.read_bytes() if known else bytes(image.stat().st_size)
    new = image.read_bytes()
    with device.open("r+b", buffering=0) as target:
        for at in range(0, len(new), _CHUNK):
            if new[at : at + _CHUNK] != old[at : at + _CHUNK]:
                target.seek(at)
                target.write(new[at : at + _CHUNK])
        os.fsync(target.fileno())


def lvm(command: str, *arguments: str) -> None:
    run("lvm", command, "--config", _CONFIG, "--yes", *arguments)


if __name__ == "__main__":
    first_process(main)
