"""Tokens by which programs are known: random, shown once, kept as hashes.

A token has 256 random bits: nobody guesses it, so that a plain hash keeps it as well as a slow one would.
"""

from __future__ import annotations

import hashlib
import secrets

_PREFIX = "hfu1-"
_LONGEST = 128


def new_token() -> str:
    """A fresh one: letters, digits, "-" and "_"."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """By which it is looked up; what is no token has a digest that nobody has."""
    return hashlib.sha256(token[:_LONGEST].encode("utf-8", "surrogatepass")).hexdigest()
