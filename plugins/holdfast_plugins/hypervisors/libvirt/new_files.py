"""Files that are made for a VM, under names that nobody else gives; what a crash leaves of them is known by these."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from holdfast_agent.errors import SnapshotNotRemoved

_NAME = re.compile(r"[^/\0]{1,200}-([0-9a-f]{16})\.(?:qcow2|raw|nvram)")
_MOST_PART_BYTES = 80


class NewFiles(msgspec.Struct, frozen=True):
    """``names`` in ``directory``, all with ``token``, as the journal keeps them until they are somebody's."""

    directory: Path
    token: str
    names: tuple[str, ...]

    def data(self) -> dict[str, str]:
        return {"directory": str(self.directory), "token": self.token, "files": json.dumps(self.names)}


def new_token() -> str:
    return secrets.token_hex(8)


def safe_part(text: str) -> str:
    """``text`` as a part of a file's name."""
    return re.sub(r"[^0-9A-Za-z._-]", "_", text).lstrip(".-")[:_MOST_PART_BYTES] or "disk"


def parse_new_files(data: Mapping[str, str]) -> NewFiles:
    """Raises :class:`SnapshotNotRemoved` for what this plugin has not written so: the journal may be old or damaged."""
    directory, token = Path(data.get("directory", "")), data.get("token", "")
    try:
        names = msgspec.json.decode(data.get("files", ""), type=tuple[str, ...])
    except msgspec.MsgspecError:
        names = ()
    matches = [_NAME.fullmatch(name) for name in names]
    if not names or not all(match is not None and match[1] == token for match in matches):
        raise not_ours(token)
    check_places(token, directory)
    return NewFiles(directory, token, names)


def check_places(token: str, *paths: Path) -> None:
    """Raises :class:`SnapshotNotRemoved` for a path that this plugin would never have promised."""
    if not all(path.is_absolute() and ".." not in path.parts for path in paths):
        raise not_ours(token)


def not_ours(what: str) -> SnapshotNotRemoved:
    return SnapshotNotRemoved(snapshot=what, vm="a VM", reason="it is not of this plugin")
