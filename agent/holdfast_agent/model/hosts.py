"""Who serves a repository."""

from __future__ import annotations

import msgspec


class RepositoryHost(msgspec.Struct, frozen=True):
    """An agent with the role repository. ``key``: its public key, which tells agents apart; ``name`` is for people."""

    key: str
    name: str
