"""``qemu-img convert`` to a compressed qcow2: not a backup program, but what many scripts run in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

from peer import NotOffered, Peer, output_of


class QemuImg(Peer):
    how_to_get = "apt install qemu-utils"

    def __init__(self, name: str, *options: str) -> None:
        self.name = name
        self._options = options

    @property
    def version(self) -> str | None:
        if shutil.which("qemu-img") is None:
            return None
        return " ".join(output_of(["qemu-img", "--version"]).split()[0:3:2])

    def run(self, home: Path, image: Path) -> None:
        copy = home / "repo" / "disk.qcow2"
        if copy.exists():
            raise NotOffered  # a second one is a full copy again
        options = ("-c", "-o", "compression_type=zstd", *self._options)
        output_of(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, image, copy])

    def restore_to(self, home: Path, folder: Path) -> None:
        output_of(["qemu-img", "convert", "-O", "raw", home / "repo" / "disk.qcow2", folder / "disk.raw"])
