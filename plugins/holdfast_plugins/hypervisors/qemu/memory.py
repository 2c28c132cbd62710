"""What is remembered of VMs, so that one can be described when its QEMU does not run or is busy with another backup.

One file a VM in the scratch directory. It is a copy of what restore points hold, and may be deleted at any time.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .inventory import Description

_SUFFIX = ".vm"
_MAX_BYTES = 4 << 20


class Memory:
    """Below one directory. Thread-safe for different VMs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, name: str, description: Description) -> None:
        """Raises ``OSError``. Only its owner may read the file: a command line can hold secrets."""
        if self.recall(name) == description:
            return
        half = self._directory / f".{secrets.token_hex(8)}{_SUFFIX}"
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(description))
        half.replace(self._directory / f"{name}{_SUFFIX}")

    def recall(self, name: str) -> Description | None:
        """None where nothing, or nothing that can be read, is remembered."""
        try:
            with (self._directory / f"{name}{_SUFFIX}").open("rb") as file:
                return msgspec.json.decode(file.read(_MAX_BYTES), type=Description)
        except (OSError, msgspec.DecodeError):
            return None

    def names(self) -> Iterator[str]:
        """Of all VMs that are remembered and still have all their images."""
        for path in sorted(self._directory.glob(f"[!.]*{_SUFFIX}")):
            description = self.recall(path.stem)
            if description is not None and all(Path(disk.image).is_file() for disk in description.disks):
                yield path.stem
