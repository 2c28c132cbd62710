"""Sees to it that what dead sessions left on hypervisors is removed: by a clean-up session for each server.

A session of its own, because a plugin that hangs or crashes must not take the service with it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial

import msgspec

from holdfast_agent.errors import Locked
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import Obligation
from holdfast_manager.reports.sentences import counted

from .starter import Starter

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 6 * 3600.0
ALARM_AFTER = 3
"""Attempts: a hypervisor that is restarted is back by then."""


class Try(msgspec.Struct, frozen=True):
    """The clean-up of a server that was started last."""

    at: float
    number: int
    """How many in a row have left something open, this one among them."""


def pause_after(tries: int) -> float:
    """Before the next clean-up of a server, after so many in a row that left something open."""
    return 0.0 if tries == 0 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 4.0 ** (tries - 1))


def due_now(owed: Mapping[str, object], tried: Mapping[str, Try], now: float) -> list[str]:
    """Those whose turn it is, of all for which something is to be done. Pure. A clock that went back delays none."""
    due = []
    for server in sorted(owed):
        last = tried.get(server)
        if last is None or not last.at <= now < last.at + pause_after(last.number):
            due.append(server)
    return due


class OrphanHunter:
    """One thread. What it remembers is how often it tried; a new service tries at once."""

    def __init__(self, catalog: Catalog, starter: Starter) -> None:
        self._catalog = catalog
        self._starter = starter
        self._tried: dict[str, Try] = {}

    def look(self, now: float) -> None:
        """Start clean-ups that are due. Called every few seconds, after dead sessions were reaped."""
        owed = _by_server(self._catalog)
        self._tried = {server: last for server, last in self._tried.items() if server in owed}
        for server in due_now(owed, self._tried, now):
            if not self._starter.has_room:
                return
            try:
                entry = self._starter.start(partial(self._catalog.sessions.begin_clean_up, server))
            except Locked:
                continue  # one is under way
            number = self._tried[server].number + 1 if server in self._tried else 1
            self._tried[server] = Try(now, number)
            self._tell(server, owed[server], entry.id)

    @staticmethod
    def _tell(server: str, owed: list[Obligation], session: int) -> None:
        attempts = max(each.attempts for each in owed)
        what = f"{counted(len(owed), 'thing')} that dead sessions left on {server}"
        if attempts < ALARM_AFTER:
            log.info("session %d removes %s", session, what)
        else:
            log.error("%s could not be removed in %d attempts: %s", what, attempts, owed[0].last_error)


def _by_server(catalog: Catalog) -> dict[str, list[Obligation]]:
    found: defaultdict[str, list[Obligation]] = defaultdict(list)
    for obligation in _orphans(catalog.obligations.open_of(), catalog):
        found[obligation.server].append(obligation)
    return found


def _orphans(owed: Iterable[Obligation], catalog: Catalog) -> list[Obligation]:
    """Those of sessions that are over."""
    every = list(owed)
    living = {each.id for each in catalog.sessions.living()} if every else set()
    return [each for each in every if each.session not in living]
