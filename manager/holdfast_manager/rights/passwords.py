"""Passwords of users: kept as scrypt hashes only (RFC 7914), each with its own salt and its own cost.

The package cryptography is loaded when the first password is hashed: commands need none.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING

from holdfast_agent.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

LEAST_CHARACTERS = 12
MOST_CHARACTERS = 256
_COST_LOG2 = 15
_BLOCK, _LANES = 8, 1
"""32 MiB and about a tenth of a second for a guess."""
_DEAREST_LOG2 = 20
_BYTES = 32


def check_new(password: str) -> str:
    """The password itself. Raises ``UsageError``, which does not repeat it, when it is too short or too long."""
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        raise UsageError(reason=f"a password has {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters")
    return password


def hashed(password: str) -> str:
    """What is kept of a password: cost, salt and hash as text."""
    salt = os.urandom(16)
    key = _kdf(_COST_LOG2, salt).derive(password.encode())
    return f"scrypt${_COST_LOG2}${_text(salt)}${_text(key)}"


def matches(password: str, kept: str) -> bool:
    """Whether ``kept`` was made of ``password``. Takes as long where nothing is kept (""), and is False then.

    Blocks for about a tenth of a second and takes 32 MiB: bound how many run at once.
    """
    from cryptography.exceptions import InvalidKey

    cost, salt, key = _parsed(kept) or (_COST_LOG2, bytes(16), bytes(_BYTES))
    try:
        _kdf(cost, salt).verify(password[: MOST_CHARACTERS + 1].encode(), key)
    except InvalidKey:
        return False
    return bool(kept)


def _kdf(cost_log2: int, salt: bytes) -> Scrypt:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=_BYTES, n=1 << cost_log2, r=_BLOCK, p=_LANES)


def _parsed(kept: str) -> tuple[int, bytes, bytes] | None:
    try:
        kind, cost, salt, key = kept.split("$")
        parsed = int(cost), base64.b64decode(salt, validate=True), base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        return None
    return parsed if kind == "scrypt" and 1 <= parsed[0] <= _DEAREST_LOG2 and len(parsed[2]) == _BYTES else None


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
