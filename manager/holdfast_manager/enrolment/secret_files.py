"""Secrets that stand in files: one secret, or lines KEY=VALUE. Such a file must be readable by its owner only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from holdfast_agent.errors import ConfigInvalid, ConfigNotFound, Denied

_MAX_BYTES = 1 << 16


def read_secret_file(path: Path) -> str:
    """The first line of a file that holds one secret.

    Raises ``ConfigNotFound``, :class:`Denied` when others may read it, or :class:`ConfigInvalid` when it is empty.
    """
    first = _read(path).partition("\n")[0].rstrip("\r")
    if not first:
        raise ConfigInvalid(file=str(path), key="line 1", reason="it is empty; the secret stands there")
    return first


def read_env_file(path: Path) -> dict[str, str]:
    """KEY=VALUE lines; blank lines and those that begin with "#" are left out. Raises as ``read_secret_file`` does."""
    found: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise ConfigInvalid(file=str(path), key=f"line {number}", reason="write KEY=VALUE")
        found[key.strip()] = value
    return found


def read_secret_text(path: Path) -> str:
    """The whole text of a file that holds one secret of several lines. Raises as ``read_secret_file`` does."""
    return _read(path)


def _read(path: Path) -> str:
    """Secrets in a file that others may read are no secrets: such a file is refused, as ssh does with keys."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigNotFound(file=str(path), advice="It should hold the secret") from error
    except OSError as error:
        raise Denied(reason=f"{path} cannot be read: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise Denied(reason=f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}")
    if len(content) > _MAX_BYTES:
        raise ConfigInvalid(file=str(path), key="size", reason=f"it is longer than {_MAX_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigInvalid(file=str(path), key="content", reason="it is not UTF-8 text") from error
