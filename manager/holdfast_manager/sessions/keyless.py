"""The part of a verification that needs no key: the repository's own agent reads and reports."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterable

from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import HoldfastError, from_record
from holdfast_agent.model.ids import Sid
from holdfast_agent.wire.messages import (
    Done,
    Finding,
    Push,
    StopVerification,
    VerifyBudget,
    VerifyEnded,
    VerifyRepository,
)

from .tasks import Context

_LOOK_S = 0.5


class KeylessCheck:
    """Has the agent verify and waits for the end. ``run`` blocks and belongs to a worker; ``push`` to the driver."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ends: queue.SimpleQueue[VerifyEnded | HoldfastError] = queue.SimpleQueue()
        self._numbers = itertools.count(1)

    def run(self, level: int, points: tuple[Sid, ...], budget: VerifyBudget, *, tables: bool = False) -> VerifyEnded:
        """Verify at ``level`` 0 or 1 (``points`` empty: all). Raises what ended it, ``Cancelled`` too."""
        context = self._context
        ticket = f"session-{context.session}-{next(self._numbers)}"
        request = VerifyRepository(
            lease=context.pool.lease,
            ticket=ticket,
            repository=context.repository.path,
            level=level,
            points=points,
            budget=budget,
            tables=tables,
        )
        context.pool.ask(context.repository.agent, request, Done)
        ended = self._wait(ticket)
        if ended.error is not None:
            raise from_record(ended.error)
        return ended

    def push(self, agent: str, push: Push | AgentLost) -> None:
        """What an agent tells; anything but the end of a verification or of its agent is passed over."""
        if isinstance(push, VerifyEnded):
            self._ends.put(push)
        elif isinstance(push, AgentLost) and agent == self._context.repository.agent:
            self._ends.put(push.error)

    def _wait(self, ticket: str) -> VerifyEnded:
        stopping = False
        while True:
            try:
                ended = self._ends.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._context.driver.stop_reason and not stopping:
                    stopping = True
                    stop = StopVerification(lease=self._context.pool.lease, ticket=ticket)
                    self._context.pool.ask(self._context.repository.agent, stop, Done)
                continue
            if isinstance(ended, HoldfastError):
                raise ended
            if ended.ticket == ticket:
                return ended


def finding_text(finding: Finding) -> str:
    """A finding as a sentence for people."""
    lost = "; data is lost" if finding.lost else ""
    return f"{finding.object}: {finding.kind}: {finding.detail}{lost}{_touched(finding.points)}"


def _touched(points: Iterable[Sid]) -> str:
    named = [sid[:12] for sid in points]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return f"; touches {', '.join(named[:5])}{more}" if named else ""
