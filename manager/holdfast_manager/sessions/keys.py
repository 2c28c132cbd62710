"""Keys of repositories as sessions take them: of the epoch that the repository tells."""

from __future__ import annotations

from holdfast_agent.sealing.keys import MOST_EPOCHS, RepositoryKeys
from holdfast_agent.wire.messages import OpenRepository, RepositoryFacts
from holdfast_manager.catalog.repository_keys import repository_keys
from holdfast_manager.catalog.values import RepositoryEntry

from .tasks import Context


def session_keys(context: Context, repository: RepositoryEntry | None = None) -> RepositoryKeys:
    """As :func:`repository_keys`, after asking the repository for its epoch: another manager may have raised it.

    ``repository``: another than the session's own, which a copy reads.

    What the repository says can only raise the epoch: a host that puts an older state back gets nothing sealed under
    keys of the past. Raises what the channel raises too.
    """
    entry = repository or context.repository
    if entry.encrypted:
        request = OpenRepository(repository=entry.path)
        facts = context.pool.ask(entry.agent, request, RepositoryFacts)
        if facts.epoch <= MOST_EPOCHS:
            context.catalog.repositories.raise_epoch(entry.name, facts.epoch)
    return repository_keys(context.catalog, entry)
