"""Who works beside a benchmark: it takes no slots, so that whoever has some where it measures falsifies it."""

from __future__ import annotations

from holdfast_manager.catalog import Catalog
from holdfast_manager.scheduler.capacities import HOST, PROXY, REPOSITORY
from holdfast_manager.scheduler.occupation import occupation


def neighbours(catalog: Catalog, proxy: str, repository: str) -> tuple[int, ...]:
    """The sessions whose tasks hold slots of the proxy, of the repository, or of anything on their hosts, now.

    Raises ``NotFound`` for the repository. What a session does that holds none (planning, pruning) weighs nothing.
    """
    catalog.sessions.reap_dead()
    host = catalog.repositories.get(repository).agent
    places = {f"{REPOSITORY} {repository}"} | {f"{kind} {agent}" for kind in (HOST, PROXY) for agent in (proxy, host)}
    holding = occupation(catalog.database).holding
    return tuple(sorted({each.session for each in holding if places.intersection(each.holds)}))
