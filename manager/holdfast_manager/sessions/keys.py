"""Keys of repositories, from where the manager keeps them."""

from __future__ import annotations

from holdfast_agent.errors import WrongKey
from holdfast_agent.sealing.keys import MOST_EPOCHS, PUBLIC, MasterKey, RepositoryKeys
from holdfast_agent.wire.messages import OpenRepository, RepositoryFacts
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import RepositoryEntry

from .tasks import Context


def repository_keys(catalog: Catalog, repository: RepositoryEntry) -> RepositoryKeys:
    """The keys of a repository, sealing under the latest epoch that the catalogue knows.

    Raises :class:`WrongKey` when the catalogue does not keep its master key.
    """
    if not repository.encrypted:
        return RepositoryKeys.derive(PUBLIC, repository.repository_id)
    secret = catalog.repositories.master_key(repository.name)
    if secret is None:
        raise WrongKey(name=f"the repository {repository.name}", reason="the manager does not keep its master key")
    return RepositoryKeys.derive(
        MasterKey(secret), repository.repository_id, catalog.repositories.epoch(repository.name)
    )


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
