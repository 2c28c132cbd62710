"""What a repository holds, counted by its agent: under a lease, so that a command that is cut off stops the count."""

from __future__ import annotations

import queue
import secrets
from collections.abc import Sequence

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import HoldfastError, from_record
from holdfast_agent.model.ids import Sid
from holdfast_agent.wire.messages import Done, Push, RepositoryStatistics, StatisticsEnded
from holdfast_manager.catalog import Catalog
from holdfast_manager.settings import TimingSettings

from .agents import AgentPool, LeaseKeeper


def count(
    catalog: Catalog, repository: str, points: Sequence[Sid], keys: KeyPair, timing: TimingSettings
) -> StatisticsEnded:
    """Ask for the statistics of a repository and wait for them. Raises what the agent and the channel raise."""
    entry = catalog.repositories.get(repository)
    ended: queue.SimpleQueue[StatisticsEnded | HoldfastError] = queue.SimpleQueue()

    def take(_agent: str, push: Push | AgentLost) -> None:
        if isinstance(push, AgentLost):
            ended.put(push.error)
        elif isinstance(push, StatisticsEnded):
            ended.put(push)

    lease = f"statistics-{secrets.token_hex(8)}"
    pool = AgentPool(catalog, keys, lease, timing.lease_ttl, take)
    try:
        with LeaseKeeper(timing.heartbeat, (pool.renew,)):
            request = RepositoryStatistics(lease=lease, ticket=lease, repository=entry.path, points=tuple(points))
            pool.ask(entry.agent, request, Done)
            found = ended.get()
    finally:
        pool.close()
    if isinstance(found, HoldfastError):
        raise found
    if found.error is not None:
        raise from_record(found.error)
    return found
