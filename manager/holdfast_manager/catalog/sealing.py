"""Secrets at rest: sealed with AES-256-GCM under a key file that lies beside the database, not in it.

Each value is bound to its row (kind, name, column) as associated data, so that a sealed secret copied to another
row does not open. What is stored: a version byte, 12 random bytes of nonce, the ciphertext with its tag.

The package cryptography is loaded when the first secret is: most commands need none.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_agent.durable import new_file

from .errors import SealingKeyUnusable, SecretUnreadable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_NONCE_BYTES = 12
_KEY_BYTES = 32
_LABEL = b"holdfast catalogue"


class Sealer:
    """Seals and unseals secrets of the catalogue. The key file is read at the first use. Thread-safe."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._read: bytes | None = None

    def seal(self, plain: bytes, kind: str, name: str, what: str) -> bytes:
        """``plain`` sealed for the column ``what`` of the row ``name``. Raises :class:`SealingKeyUnusable`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._key().encrypt(nonce, plain, _identity(kind, name, what))

    def unseal(self, sealed: bytes, kind: str, name: str, what: str) -> bytes:
        """The inverse of ``seal``. Raises :class:`SecretUnreadable` or :class:`SealingKeyUnusable`."""
        from cryptography.exceptions import InvalidTag

        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _VERSION or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            return self._key().decrypt(nonce, body, _identity(kind, name, what))
        except InvalidTag as error:
            raise SecretUnreadable(what=what, kind=kind, name=name) from error

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for something else than sealing. Raises :class:`SealingKeyUnusable`."""
        return hmac.digest(self._secret(), b"\0".join((_LABEL, b"derived", purpose.encode())), hashlib.sha256)

    def _key(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._secret())

    def _secret(self) -> bytes:
        if self._read is None:
            self._read = read_key_file(self._key_file)
        return self._read


def make_key_file(path: Path) -> None:
    """Make a fresh key file (0600), whole and durable when this returns. One that exists is kept and checked."""
    if path.exists():
        read_key_file(path)
        return
    try:
        with contextlib.suppress(FileExistsError), new_file(path) as file:  # another process was quicker: its key holds
            file.write(secrets.token_bytes(_KEY_BYTES))
    except OSError as error:
        advice = "Check the permissions and free space of its directory"
        raise SealingKeyUnusable(file=str(path), reason=error.strerror or "not writable", advice=advice) from error


def read_key_file(path: Path) -> bytes:
    """The key. Raises :class:`SealingKeyUnusable` when it is missing, cut, or readable by others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(_KEY_BYTES + 1)
    except OSError as error:
        advice = "Restore it from your backup of the data directory; without it, give each secret again"
        raise SealingKeyUnusable(file=str(path), reason=error.strerror or "unreadable", advice=advice) from error
    if stat.S_IMODE(mode) & 0o077:
        raise SealingKeyUnusable(file=str(path), reason="others may read it", advice=f"Run: chmod 600 {path}")
    if len(key) != _KEY_BYTES:
        advice = "Restore it from your backup of the data directory"
        raise SealingKeyUnusable(file=str(path), reason=f"it is not {_KEY_BYTES} bytes long", advice=advice)
    return key


def _identity(kind: str, name: str, what: str) -> bytes:
    return b"\0".join((_LABEL, kind.encode(), name.encode(), what.encode()))
