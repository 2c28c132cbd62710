"""Holding a collector off: who reads for long is a session too, so that the drain waits for it before a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from holdfast_agent.errors import FormatUnsupported, RepositoryError, RepositoryFull, RepositoryReadOnly
from holdfast_agent.model.ids import new_sid

from .collector_log import packs_to_avoid
from .repository import Repository


@contextlib.contextmanager
def pinned(repository: Repository) -> Iterator[frozenset[str]]:
    """Nothing that was not condemned before can vanish inside; yields the packs that may: every live record has, or
    will have, a home elsewhere.

    Used by verifications and by reader movers, which may run for hours. Look for the points to read inside: one that
    is retired before may be gone. A disk that is full or read-only, or a format that this version may not write, is
    read all the same, without the pin. The record goes with its process, as a writer's does. Raises storage errors.
    """
    sid = new_sid()
    try:
        lock = repository.begin_session(sid)
    except (RepositoryFull, RepositoryReadOnly, FormatUnsupported):
        yield _avoided(repository)
        return
    try:
        yield _avoided(repository)
    finally:
        with contextlib.suppress(RepositoryError):  # else the next recovery does it: nothing of value depends on it
            repository.abort(sid)
        lock.close()


def _avoided(repository: Repository) -> frozenset[str]:
    """A log that cannot be read stops writers; a reader takes what it gets."""
    try:
        return packs_to_avoid(repository.store)
    except RepositoryError:
        return frozenset()
