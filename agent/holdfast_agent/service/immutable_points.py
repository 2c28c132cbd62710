"""After a point was committed or protected until a time: have its files made immutable, where that is configured."""

from __future__ import annotations

import logging

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.ids import Sid

from .agent import Agent
from .repositories import allowed_repository, opened

_log = logging.getLogger(__name__)


def mark_immutable(agent: Agent, path: str, sid: Sid) -> None:
    """Begin it beside all else; called in the loop's thread. A failure is told once for each repository and kind.

    The agent keeps the point in any case, and the next collection tries again.
    """
    if not agent.settings.immutable_helper:
        return

    def work() -> None:
        from holdfast_agent.repository.immutability import Immutability

        immutability = Immutability(agent.settings.immutable_helper, allowed_repository(agent.settings, path))
        with opened(agent.settings, path) as repository:
            immutability.protect(repository, sid)

    def ended(outcome: HoldfastError | None) -> None:
        if isinstance(outcome, HoldfastError) and (path, outcome.code) not in agent.unmarked:
            agent.unmarked.add((path, outcome.code))
            _log.warning("restore point %s is not immutable for this agent: %s", sid, outcome)

    agent.verify_work.run_always(work, ended)
