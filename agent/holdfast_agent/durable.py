"""Files that are whole or not there, whatever ends the process or the host: for the agent and for the manager.

A file gets its name when its content is on the storage, and the name is on the storage when its folder was synced.
Thread-safe; a process that is killed may leave its draft, ``.NAME.`` and random digits.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sync_folder(path: Path) -> None:
    """What was made, removed or renamed in it is durable when this returns. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that only its owner may read. It is there, durable, after the block, and not if that raises.

    Raises :class:`FileExistsError` after the block, for none is replaced, and OSError.
    """
    with _draft(path) as (draft, file):
        yield file
        _finish(file)
        os.link(draft, path)
    sync_folder(path.parent)


@contextmanager
def replaced_file(path: Path, readable: bool = False) -> Iterator[BinaryIO]:
    """As :func:`new_file`, in place of a file that may be there: whoever reads it sees the old or the new content.

    ``readable``: for others too, as far as the umask lets them.
    """
    with _draft(path, 0o666 if readable else 0o600) as (draft, file):
        yield file
        _finish(file)
        draft.replace(path)
    sync_folder(path.parent)


@contextmanager
def _draft(path: Path, mode: int = 0o600) -> Iterator[tuple[Path, BinaryIO]]:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            yield draft, file
    finally:
        draft.unlink(missing_ok=True)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
