"""What a snapshot makes on the hypervisor, as the journal keeps it until it is removed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..tracking_names import parse_tracking_name
from .options import Method

SNAPSHOT = "libvirt-snapshot"
"""Obligation to end a backup job, or to bring overlays down. ``data``: see :class:`Promised`."""
_TARGET = re.compile(r"[0-9A-Za-z_-]{1,32}", re.ASCII)


class Promised(msgspec.Struct, frozen=True):
    """What a snapshot makes on the hypervisor, as the journal keeps it."""

    vm: str
    name: str
    method: Method
    directory: str
    targets: tuple[str, ...]

    def data(self) -> dict[str, str]:
        plain = {"vm": self.vm, "name": self.name, "method": str(self.method), "directory": self.directory}
        return plain | {"targets": json.dumps(self.targets)}

    def overlays(self) -> dict[str, Path]:
        return {target: Path(self.directory) / f"{self.name}-{target}.overlay" for target in self.targets}

    def left_files(self) -> list[Path]:
        """What is left if QEMU, libvirt or this process die."""
        directory = Path(self.directory)
        scratch = [directory / f"{self.name}-{target}.scratch" for target in self.targets]
        return [*scratch, directory / f"{self.name}.sock", self.life()]

    def life(self) -> Path:
        """The file that is locked as long as who took the snapshot lives."""
        return Path(self.directory) / f"{self.name}.lock"


def parse_promised(data: Mapping[str, str]) -> Promised | None:
    """None for what this plugin has not written so: the journal may be old or damaged."""
    try:
        targets = tuple(msgspec.json.decode(data["targets"], type=list[str]))
        promised = Promised(data["vm"], data["name"], Method(data["method"]), data["directory"], targets)
    except (KeyError, ValueError, msgspec.MsgspecError):
        return None
    ours = parse_tracking_name(promised.name) is not None and all(map(_TARGET.fullmatch, targets))
    directory = Path(promised.directory)
    return promised if ours and directory.is_absolute() and ".." not in directory.parts else None
