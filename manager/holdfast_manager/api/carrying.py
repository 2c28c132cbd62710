"""The files of a command that was typed on another host: what it reads came with it, what it makes goes back.

The command sees places in a folder of its own. No name that stands in its arguments is ever looked up on this host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from holdfast_agent.errors import UsageError

_LIST = "made.json"
_MOST_NAME = 100


class Carrier:
    """On the manager's side, in the command's own process. ``folder`` is empty and private; who made it removes it."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._files = files
        self._made: dict[str, str] = {}
        self._places: dict[str, str] = {}

    def place(self, name: str, makes: bool) -> str:
        """Where the command finds the file ``name``, or is to make it. Raises ``UsageError`` for one that is not there.

        The list of files that are made is written before there are any.
        """
        if name not in self._places:
            content = None if makes else self._files.get(name)
            if content is None and not makes:
                raise UsageError(reason=f"the file {name!r} did not come with the command")
            folder = self._folder / str(len(self._places))
            folder.mkdir(mode=0o700)
            place = folder / _plain(name)
            self._places[name] = str(place)
            if content is not None:
                with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(content)
            else:
                self._made[name] = str(place.relative_to(self._folder))
                (self._folder / _LIST).write_bytes(msgspec.json.encode(self._made))
        return self._places[name]


def made_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and place of each file that a command has made. Called by the service when the command has ended."""
    try:
        made = msgspec.json.decode((folder / _LIST).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return
    for name, place in made.items():
        if (folder / place).is_file():
            yield name, folder / place


def _plain(name: str) -> str:
    """The last part of ``name``, as a name for a file here: messages show it."""
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in Path(name).name)[-_MOST_NAME:] or "file"
