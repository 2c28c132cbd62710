"""Managers on other hosts, as a user knows them: where each is, its public key, and the user's own key pair for it.

For each a file NAME.toml and a file NAME.key (0600) in ``~/.config/holdfast/managers``, or in $HOLDFAST_MANAGERS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import toml

from holdfast_agent.channel.authentication import KeyPair, check_public_key
from holdfast_agent.errors import AlreadyExists, ConfigInvalid, Denied, UsageError
from holdfast_agent.model import strict
from holdfast_manager.catalog.rows import not_found
from holdfast_manager.catalog.values import Name

DEFAULT_PORT = 8431  # beside an agent's 8430, and none of the ports of its movers


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the TOML file holds. ``endpoint``: tcp://HOST:PORT."""

    endpoint: Annotated[str, msgspec.Meta(pattern=r"^tcp://.+:[0-9]{1,5}$")]
    server_key: str


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One manager. ``keys`` are ours."""

    name: str
    place: Place
    keys: KeyPair


def folder() -> Path:
    """Where they are kept."""
    return Path(os.environ.get("HOLDFAST_MANAGERS") or "~/.config/holdfast/managers").expanduser()


def names() -> list[str]:
    """All that are known, sorted."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name: str) -> Context:
    """Raises ``NotFound`` with the nearest name, or a ``ConfigError``."""
    if name not in names():
        raise not_found("manager", name, names())
    path = folder() / f"{name}.toml"
    place = strict.convert(strict.read_toml(path), Place, str(path))
    try:
        check_public_key(place.server_key)
    except UsageError as error:
        raise ConfigInvalid(file=str(path), key="server_key", reason=error.text) from error
    return Context(name=name, place=place, keys=KeyPair.load(folder() / f"{name}.key"))


def add(name: str, endpoint: str, server_key: str) -> Context:
    """Write down a manager, with a fresh key pair for it. Raises ``AlreadyExists``, ``UsageError`` or ``Denied``."""
    strict.convert(name, Name, "the name of a manager")
    place = Place(endpoint=endpoint_of(endpoint), server_key=check_public_key(server_key))
    if name in names():
        raise AlreadyExists(kind="manager", name=name)
    keys = KeyPair.generate()
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder() / f"{name}.key").unlink(missing_ok=True)  # half of one, left by a crash
        keys.save(folder() / f"{name}.key")
        draft = folder() / f".{name}.{os.getpid()}"
        draft.write_text(toml.dumps(msgspec.to_builtins(place)), encoding="utf-8")
        draft.replace(folder() / f"{name}.toml")
    except OSError as error:
        raise Denied(reason=f"{folder()} cannot be written: {error.strerror}") from error
    return Context(name=name, place=place, keys=keys)


def remove(name: str) -> None:
    """Forget a manager and the key pair. Raises ``NotFound``."""
    if name not in names():
        raise not_found("manager", name, names())
    (folder() / f"{name}.toml").unlink()
    (folder() / f"{name}.key").unlink(missing_ok=True)


def endpoint_of(text: str) -> str:
    """tcp://HOST:PORT of "HOST", "HOST:PORT" or "[ADDRESS]:PORT". Raises ``UsageError``."""
    plain = text.removeprefix("tcp://")
    host, colon, port = plain.rpartition(":")
    if not colon or plain.endswith("]"):
        host, port = plain, str(DEFAULT_PORT)
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise UsageError(reason=f"{text!r} is no place of a manager; write HOST or HOST:PORT")
    return f"tcp://{host}:{port}"
