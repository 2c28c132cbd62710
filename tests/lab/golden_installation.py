"""Golden installations: what versions of the past left behind, for the version of today to go on with.

``tests/golden/installation.py`` makes them. The catalogue lies in its archive as SQL, in which the folder of the
installation, the port of its agent and its host are names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import socket
import sqlite3
import tarfile
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parents[1] / "golden"
AGENT, JOB = "local", "nightly"
REPOSITORIES = {"main": True, "offsite": False}
"""Name → whether it is encrypted."""
PASSPHRASE = "the passphrase of a golden installation"  # noqa: S105
TOKEN = "token"  # noqa: S105
_PREFIX = "installation-"
_CATALOG, _HOME, _PORT, _HOST = "catalog.sql", "@HOME@", "@PORT@", '"host": "@HOST@"'
_CONFIGURED = ("agent.toml", "manager.toml")
_BLOCK = 64 << 10


class Expected(msgspec.Struct, frozen=True):
    """``points``: restore point → name of a disk → SHA-256 of what was in it."""

    points: dict[str, dict[str, str]]


def names() -> list[str]:
    """Of all that were ever made."""
    return sorted(path.name[len(_PREFIX) :].removesuffix(".tar.xz") for path in FOLDER.glob(f"{_PREFIX}*.tar.xz"))


def content_of(disk: str, round_number: int) -> tuple[bytes, str]:
    """What is in a disk in its first or second round, and the SHA-256 of that. Most of it are holes."""
    blocks = []
    for number in range(40):
        when = round_number if number == 0 else 1
        random_bytes = random.Random(f"{disk} {number} {when}").randbytes(64) if number % 20 == 0 else b"\0"
        blocks.append((random_bytes * _BLOCK)[:_BLOCK])
    content = b"".join(blocks)
    return content, hashlib.sha256(content).hexdigest()


def store(name: str, home: Path, port: int, expected: Expected) -> Path:
    """Put an installation away, of which nothing runs. Refuses to replace one."""
    with contextlib.closing(sqlite3.connect(home / "manager" / "catalog.db")) as catalog:
        lines = [_named(line, home, port) for line in catalog.iterdump()]
    (home / _CATALOG).write_text("\n".join(lines))
    for kept in _CONFIGURED:
        (home / kept).write_text(_named((home / kept).read_text(), home, port))
    (home / "expected.json").write_bytes(msgspec.json.encode(expected))
    (home / "manager" / "catalog.db").unlink()
    shutil.rmtree(home / "manager" / "logs", ignore_errors=True)
    shutil.rmtree(home / "agent" / "cache", ignore_errors=True)
    archive = FOLDER / f"{_PREFIX}{name}.tar.xz"
    with tarfile.open(archive, "x:xz", preset=9) as target:
        target.add(home, ".", filter=_nameless)
    return archive


def unpack(name: str, home: Path, port: int) -> Expected:
    """An installation as it was left, in ``home``, whose agent is to listen on ``port``."""
    with tarfile.open(FOLDER / f"{_PREFIX}{name}.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python knows none yet
        archive.extractall(home)  # noqa: S202 - our own
    for kept in (_CATALOG, *_CONFIGURED):
        text = (home / kept).read_text()
        (home / kept).write_text(text.replace(_HOME, str(home)).replace(_PORT, str(port)).replace(_HOST, _this_host()))
    with contextlib.closing(sqlite3.connect(home / "manager" / "catalog.db")) as catalog:
        catalog.executescript((home / _CATALOG).read_text())
    (home / "manager" / "catalog.db").chmod(0o600)
    return msgspec.json.decode((home / "expected.json").read_bytes(), type=Expected)


def _named(text: str, home: Path, port: int) -> str:
    """With names for what will be others. What the audit log says is sealed."""
    if text.startswith('INSERT INTO "audit'):
        return text
    return text.replace(str(home), _HOME).replace(str(port), _PORT).replace(_this_host(), _HOST)


def _this_host() -> str:
    """As the processes of sessions are written down: those of then are dead for sure, here and now."""
    return json.dumps({"host": socket.gethostname()})[1:-1]


def _nameless(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return None if entry.name.endswith(("/space-reserve", "/endpoint", "/agent/lock")) else entry
