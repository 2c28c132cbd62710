"""Keys of repositories, from where the manager keeps them."""

from __future__ import annotations

from holdfast_agent.errors import WrongKey
from holdfast_agent.sealing.keys import PUBLIC, MasterKey, RepositoryKeys

from .catalog import Catalog
from .values import RepositoryEntry


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
