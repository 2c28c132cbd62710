"""Who may talk to whom: CURVE key pairs, their files, and the list of managers that an agent admits.

Both sides pin the other's public key, as SSH does. Public keys are written as 40 characters of Z85.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import zmq
from zmq.utils import z85

from holdfast_agent.durable import new_file, replaced_file
from holdfast_agent.errors import ConfigInvalid, ConfigNotFound, HoldfastError, UsageError

KEY_CHARS = 40
_KEY_BYTES = 32
_MAX_FILE_BYTES = 1 << 20


def check_public_key(text: str) -> str:
    """The key itself if it is 40 characters of Z85 that name 32 bytes. Raises :class:`UsageError`."""
    reason = f"{text!r} is not a public key ({KEY_CHARS} characters of Z85, as holdfast-agent show prints it)"
    if len(text) != KEY_CHARS or not text.isascii():
        raise UsageError(reason=reason)
    try:
        decoded = z85.decode(text.encode("ascii"))
    except (KeyError, ValueError, struct.error) as error:
        raise UsageError(reason=reason) from error
    if len(decoded) != _KEY_BYTES or z85.encode(decoded).decode("ascii") != text:
        raise UsageError(reason=reason)
    return text


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair of an agent or a manager; ``repr`` and ``str`` leave the secret half out."""

    public: str
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> KeyPair:
        """A fresh pair. Its public key begins with a letter or digit, so no command line takes it for an option."""
        while True:
            public, secret = zmq.curve_keypair()
            if public[:1].isalnum():
                return cls(public.decode("ascii"), secret)

    @classmethod
    def load(cls, path: Path) -> KeyPair:
        """Read a secret key file written by :meth:`save`; the public half is computed from it.

        Raises :class:`ConfigNotFound`, or :class:`ConfigInvalid` where others can read the file or it is no key.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ConfigNotFound(file=str(path), advice="Run init first: it makes the keys") from error
        except OSError as error:
            raise ConfigInvalid(file=str(path), key="secret key", reason=error.strerror or str(error)) from error
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode & 0o777
            content = file.read(_MAX_FILE_BYTES)
        if mode & 0o077:
            raise ConfigInvalid(
                file=str(path), key="secret key", reason=f"others may read it (mode {mode:04o}): chmod 600 {path}"
            )
        try:
            secret = check_public_key(content.decode("ascii").strip()).encode("ascii")
        except (UnicodeDecodeError, UsageError):
            raise ConfigInvalid(file=str(path), key="secret key", reason="it does not hold a CURVE key") from None
        return cls(zmq.curve_public(secret).decode("ascii"), secret)

    def save(self, path: Path) -> None:
        """Write the secret key to a new file of mode 0600. Raises :class:`FileExistsError`: keys are never replaced.

        The file appears whole: whoever is killed on the way leaves none, not one that is no key.
        """
        with new_file(path) as file:
            file.write(self.secret + b"\n")


class AuthorisedKeys:
    """The managers that an agent admits: a file with one line "KEY name" each, read anew whenever it changes.

    Lines that begin with "#" are comments; no key does, since its first five characters would exceed 32 bits. Reading
    is for one thread; :meth:`add` and :meth:`remove` replace the file, so that a reader sees the old or the new one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._names: Mapping[str, str] = MappingProxyType({})

    def current(self) -> Mapping[str, str]:
        """Key → name as the file says now; an absent file admits nobody.

        Raises :class:`ConfigInvalid` for a line that is no key; nobody is admitted by a file that is not understood.
        """
        try:
            info = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._names = None, MappingProxyType({})
            return self._names
        stamp = (info.st_mtime_ns, info.st_ino, info.st_size)
        if stamp != self._stamp:
            self._names = MappingProxyType(self._parse())
            self._stamp = stamp
        return self._names

    def add(self, key: str, name: str) -> bool:
        """Admit ``key``; says whether anything changed. Raises :class:`UsageError` for what is no key or name."""
        check_public_key(key)
        if not name.isprintable() or len(name) > 128:
            raise UsageError(reason="a name is at most 128 printable characters")
        names = dict(self.current())
        if names.get(key) == name or (key in names and not name):
            return False
        self._replace({**names, key: name})
        return True

    def remove(self, key: str) -> bool:
        """Shut ``key`` out; says whether it was admitted before."""
        names = dict(self.current())
        if names.pop(key, None) is None:
            return False
        self._replace(names)
        return True

    def _parse(self) -> dict[str, str]:
        names: dict[str, str] = {}
        with self._path.open(encoding="utf-8", errors="replace") as file:  # what is no text is no key either
            for number, line in enumerate(file.read(_MAX_FILE_BYTES).splitlines(), start=1):
                text = line.strip()
                if not text or text.startswith("#"):
                    continue
                key, _, name = text.partition(" ")
                try:
                    names[check_public_key(key)] = name.strip()
                except UsageError as error:
                    raise ConfigInvalid(file=str(self._path), key=f"line {number}", reason=error.text) from error
        return names

    def _replace(self, names: Mapping[str, str]) -> None:
        lines = ["# Managers that this agent admits; kept by `holdfast-agent authorize`"]
        lines += [f"{key} {name}".rstrip() for key, name in sorted(names.items())]
        with replaced_file(self._path) as file:
            file.writelines(f"{line}\n".encode() for line in lines)
        self._stamp = None


class ZapHandler:
    """Answers libzmq's question whether a CURVE peer may connect (ZAP 1.0, RFC 27).

    One per context, owned by the thread that polls :attr:`socket` and calls :meth:`answer` when it is readable. The
    user id that libzmq then attaches to every frame of the connection is the peer's public key: the one identity
    that the agent trusts.
    """

    DOMAIN = "holdfast"

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], admits: Callable[[str], bool]) -> None:
        """``admits``: whether the peer with this public key may connect now. Nobody may where it raises."""
        self._admits = admits
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")

    def answer(self) -> str | None:
        """Answer one request; returns the key that was refused, or None. Raises nothing of what ``admits`` raises."""
        frames = self.socket.recv_multipart()
        key = self._credentials(frames)
        try:
            admitted = key is not None and self._admits(key)
        except (HoldfastError, OSError):
            admitted = False
        request_id = frames[1] if len(frames) > 1 else b""
        status = (b"200", b"OK", key.encode("ascii") if key else b"") if admitted else (b"400", b"refused", b"")
        self.socket.send_multipart([b"1.0", request_id, *status, b""])
        return None if admitted else (key or "(no CURVE key)")

    def close(self) -> None:
        self.socket.close()

    def _credentials(self, frames: list[bytes]) -> str | None:
        if len(frames) != 7:
            return None
        version, _, domain, _, _, mechanism, secret_proof = frames
        if version != b"1.0" or domain != self.DOMAIN.encode() or mechanism != b"CURVE" or len(secret_proof) != 32:
            return None
        return z85.encode(secret_proof).decode("ascii")
