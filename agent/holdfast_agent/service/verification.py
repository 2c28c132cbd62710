"""The handler of ``VerifyRepository``: a long check in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import UsageError
from holdfast_agent.wire.messages import Done, StopVerification, VerifyEnded, VerifyProgress, VerifyRepository

from .agent import Agent
from .calls import Call
from .repositories import opened
from .ticketed import lease_for, run_ticketed

_PROGRESS_EVERY_S = 0.5
_MOST_FINDINGS = 10_000  # more than anybody reads, and they still fit one message


def verify_repository(agent: Agent, call: Call[VerifyRepository]) -> None:
    request = call.request
    if request.level not in (0, 1):
        raise UsageError(reason="an agent verifies at level 0 or 1; level 2 needs the key and runs on a proxy")
    lease = lease_for(agent, call, "verification")
    if lease is None:
        return
    told_at = 0.0

    def progressed(checked_bytes: int, total_bytes: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at < _PROGRESS_EVERY_S:
            return
        told_at = time.monotonic()
        push = VerifyProgress(ticket=request.ticket, checked_bytes=checked_bytes, total_bytes=total_bytes)
        agent.verify_work.post(lambda: agent.push(lease, push))

    def work(stop: threading.Event) -> VerifyEnded:
        return _verify(agent.settings, request, progressed, stop.is_set)

    run_ticketed(agent, call, lease, agent.verify_work, work, VerifyEnded)


def stop_verification(agent: Agent, call: Call[StopVerification]) -> None:
    """Of all that is named by a ticket."""
    stop = agent.leases.get(call.key, call.request.lease).tickets.get(call.request.ticket)
    if stop is not None:
        stop.set()
    call.reply(Done())


def _verify(
    settings: AgentSettings,
    request: VerifyRepository,
    progressed: Callable[[int, int], None],
    cancel: Callable[[], bool],
) -> VerifyEnded:
    from holdfast_agent.repository.verify import verify

    with opened(settings, request.repository) as repository:
        report = verify(
            repository,
            request.level,
            request.points or None,
            on_progress=progressed,
            cancel=cancel,
            budget=request.budget,
            tables=request.tables,
            put_aside=True,
        )
    return VerifyEnded(
        ticket=request.ticket,
        findings=report.findings[:_MOST_FINDINGS],
        objects_checked=report.objects_checked,
        checked_bytes=report.checked_bytes,
        packs_checked=report.packs_checked,
        packs_left=report.packs_left,
        known=report.known,
        noted=report.noted,
    )
