"""Long work on a repository that a manager asks for: named by a ticket, told of by pushes, ended with its lease."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from holdfast_agent.errors import HoldfastError
from holdfast_agent.wire.messages import (
    CollectEnded,
    CollectGarbage,
    Done,
    RepositoryStatistics,
    StatisticsEnded,
    VerifyEnded,
    VerifyRepository,
)

from .agent import Agent
from .calls import Call
from .leases import Lease, check_name
from .repositories import allowed_repository
from .workers import BlockingWorkers

Asked = TypeVar("Asked", VerifyRepository, RepositoryStatistics, CollectGarbage)
Ended = TypeVar("Ended", VerifyEnded, StatisticsEnded, CollectEnded)


def lease_for(agent: Agent, call: Call[Asked], what: str) -> Lease | None:
    """The lease under which ``what`` is asked for; None where it runs already, which is answered here.

    Raises :class:`LeaseUnknown`, :class:`UsageError` for the ticket, :class:`RepositoryDenied`.
    """
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    check_name(what, request.ticket)
    allowed_repository(agent.settings, request.repository)
    if request.ticket in lease.tickets:
        call.reply(Done())
        return None
    return lease


def run_ticketed(
    agent: Agent,
    call: Call[Asked],
    lease: Lease,
    workers: BlockingWorkers,
    work: Callable[[threading.Event], Ended],
    ended: type[Ended],
    over: Callable[[], object] = lambda: None,
) -> None:
    """Answer, and run ``work`` in a thread of ``workers`` until it ends or its event is set.

    Its outcome is pushed, as ``ended`` has it for an error. ``over`` is called before that, in the loop's thread.
    Raises :class:`Locked` when too much waits; nothing runs then.
    """
    ticket, stop = call.request.ticket, threading.Event()

    def settle(outcome: Ended | HoldfastError) -> None:
        over()
        lease.tickets.pop(ticket, None)
        if isinstance(outcome, HoldfastError):
            outcome = ended(ticket=ticket, error=outcome.to_record())
        agent.push(lease, outcome)

    workers.run(lambda: work(stop), settle)
    lease.tickets[ticket] = stop
    call.reply(Done())
