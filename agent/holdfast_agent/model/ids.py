"""Names of things: block ids, session ids and the ids of movers and tasks."""

from __future__ import annotations

import secrets
from typing import NewType

from holdfast_agent.errors import UsageError

BlockId = NewType("BlockId", bytes)
"""32 bytes. Keyed BLAKE3 of a plain block, plain BLAKE3 of a tree node, or :data:`HOLE`."""

Sid = NewType("Sid", str)
"""32 lower-case hex digits: 128 random bits that name a backup session and the restore point it leaves."""

ID_BYTES = 32
HOLE = BlockId(bytes(ID_BYTES))
"""The all-zero id stands for a block (or a whole subtree) of zeros, which is never stored."""


def new_sid() -> Sid:
    """A fresh session id; never reused, so that no name in a repository ever recurs."""
    return Sid(secrets.token_hex(16))


def parse_sid(text: str) -> Sid:
    """Check that ``text`` is a whole session id. Raises :class:`UsageError`."""
    if len(text) != 32 or any(c not in "0123456789abcdef" for c in text):
        raise UsageError(reason=f"{text!r} is not a restore point id (32 hex digits)")
    return Sid(text)
