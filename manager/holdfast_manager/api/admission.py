"""Who is let in by which key: what the catalogue says, read once a second, and at once when it matters."""

from __future__ import annotations

import logging

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog.users import Users
from holdfast_manager.rights.values import UserEntry

log = logging.getLogger(__name__)

_TRUSTED_LOOKS = 30
"""While the database cannot be read, what it said last counts for so many looks; then nobody is let in."""


class Admission:
    """One thread. Reads the catalogue seldom: a client that streams output asks many times a second."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._by_key: dict[str, UserEntry] = {}
        self._failed = 0

    def refresh(self) -> None:
        """Ask the catalogue."""
        try:
            entries = self._users.list()
        except HoldfastError as error:
            self._failed += 1
            log.warning("who may use the API cannot be read: %s", error)
            if self._failed >= _TRUSTED_LOOKS:
                self._by_key = {}
            return
        self._failed = 0
        self._by_key = {entry.public_key: entry for entry in entries if entry.public_key and entry.enabled}

    def admits(self, key: str) -> bool:
        """Whether a peer with this key may connect now."""
        self.refresh()
        return key in self._by_key

    def known(self, key: str) -> UserEntry | None:
        """The user who has the key, as of the last look; None: nobody who is enabled."""
        return self._by_key.get(key)
