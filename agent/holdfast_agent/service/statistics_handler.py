"""The handler of ``RepositoryStatistics``: counting in a thread of its own, told by a push, ended with its lease."""

from __future__ import annotations

import threading

from holdfast_agent.errors import HoldfastError
from holdfast_agent.wire.messages import Done, RepositoryStatistics, StatisticsEnded

from .agent import Agent
from .calls import Call
from .leases import check_name
from .repositories import allowed_repository, opened


def repository_statistics(agent: Agent, call: Call[RepositoryStatistics]) -> None:
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    check_name("count", request.ticket)
    allowed_repository(agent.settings, request.repository)
    if request.ticket in lease.verifications:
        call.reply(Done())  # asked twice
        return
    stop = threading.Event()

    def work() -> StatisticsEnded:
        from holdfast_agent.repository.statistics import count_repository

        with opened(agent.settings, request.repository) as repository:
            return count_repository(repository, request.ticket, request.points, stop.is_set)

    def ended(outcome: StatisticsEnded | HoldfastError) -> None:
        lease.verifications.pop(request.ticket, None)
        if isinstance(outcome, HoldfastError):
            outcome = StatisticsEnded(ticket=request.ticket, error=outcome.to_record())
        agent.push(lease, outcome)

    agent.verify_work.run(work, ended)
    lease.verifications[request.ticket] = stop
    call.reply(Done())
