"""The handler of ``RepositoryStatistics``: counting in a thread of its own."""

from __future__ import annotations

import threading

from holdfast_agent.wire.messages import RepositoryStatistics, StatisticsEnded

from .agent import Agent
from .calls import Call
from .repositories import opened
from .ticketed import lease_for, run_ticketed


def repository_statistics(agent: Agent, call: Call[RepositoryStatistics]) -> None:
    request = call.request
    lease = lease_for(agent, call, "count")
    if lease is None:
        return

    def work(stop: threading.Event) -> StatisticsEnded:
        from holdfast_agent.repository.statistics import count_repository

        with opened(agent.settings, request.repository) as repository:
            return count_repository(repository, request.ticket, request.points, stop.is_set)

    run_ticketed(agent, call, lease, agent.verify_work, work, StatisticsEnded)
