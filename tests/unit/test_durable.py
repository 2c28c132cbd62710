"""Files are whole or not there, and durable when their writer is told that they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from holdfast_agent.durable import new_file, replaced_file

Writer = Callable[[Path], AbstractContextManager[BinaryIO]]


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


WRITERS = pytest.mark.parametrize("write", [new_file, replaced_file])


@WRITERS
def test_the_content_is_durable_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer
) -> None:
    place, synced = tmp_path / "key", list[tuple[str, bool]]()
    sync = os.fsync

    def told(fd: int) -> None:
        sync(fd)
        info = os.fstat(fd)
        synced.append(("folder" if stat.S_ISDIR(info.st_mode) else f"{info.st_size} bytes", place.exists()))

    monkeypatch.setattr(os, "fsync", told)
    umask = os.umask(0)
    try:
        with write(place) as file:
            file.write(b"secret")
    finally:
        os.umask(umask)
    assert synced == [("6 bytes", False), ("folder", True)]
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert files_in(tmp_path) == ["key"]


@WRITERS
def test_what_was_not_written_whole_leaves_all_as_it_was(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(ZeroDivisionError), write(tmp_path / "new") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert files_in(tmp_path) == []


def test_only_who_replaces_replaces(tmp_path: Path) -> None:
    place = tmp_path / "key"
    place.write_bytes(b"old")
    with pytest.raises(FileExistsError), new_file(place) as file:
        file.write(b"new")
    assert (files_in(tmp_path), place.read_bytes()) == (["key"], b"old")
    with replaced_file(place) as file:
        file.write(b"new")
    assert (files_in(tmp_path), place.read_bytes()) == (["key"], b"new")
