"""The handler of ``VerifyRepository``: a long check in its own thread, told by pushes, ended with its lease."""

from __future__ import annotations

import threading
import time

from holdfast_agent.errors import HoldfastError, UsageError
from holdfast_agent.wire.messages import Done, StopVerification, VerifyEnded, VerifyProgress, VerifyRepository

from .agent import Agent
from .calls import Call
from .leases import check_name
from .repositories import allowed_repository, opened

_PROGRESS_EVERY_S = 0.5
_MOST_FINDINGS = 10_000  # more than anybody reads, and they still fit one message


def verify_repository(agent: Agent, call: Call[VerifyRepository]) -> None:
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    check_name("verification", request.ticket)
    allowed_repository(agent.settings, request.repository)
    if request.level not in (0, 1):
        raise UsageError(reason="an agent verifies at level 0 or 1; level 2 needs the key and runs on a proxy")
    if request.ticket in lease.verifications:
        call.reply(Done())  # asked twice
        return
    stop = threading.Event()

    told_at = 0.0

    def progressed(checked_bytes: int, total_bytes: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at < _PROGRESS_EVERY_S:
            return
        told_at = time.monotonic()
        push = VerifyProgress(ticket=request.ticket, checked_bytes=checked_bytes, total_bytes=total_bytes)
        agent.verify_work.post(lambda: agent.push(lease, push))

    def work() -> VerifyEnded:
        from holdfast_agent.repository.verify import verify

        with opened(agent.settings, request.repository) as repository:
            report = verify(
                repository,
                request.level,
                request.points or None,
                on_progress=progressed,
                cancel=stop.is_set,
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

    def ended(outcome: VerifyEnded | HoldfastError) -> None:
        lease.verifications.pop(request.ticket, None)
        if isinstance(outcome, HoldfastError):
            outcome = VerifyEnded(ticket=request.ticket, error=outcome.to_record())
        agent.push(lease, outcome)

    agent.verify_work.run(work, ended)
    lease.verifications[request.ticket] = stop
    call.reply(Done())


def stop_verification(agent: Agent, call: Call[StopVerification]) -> None:
    stop = agent.leases.get(call.key, call.request.lease).verifications.get(call.request.ticket)
    if stop is not None:
        stop.set()
    call.reply(Done())
