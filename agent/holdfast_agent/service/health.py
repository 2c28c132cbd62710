"""How an agent is: for managers that ask, and as metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import msgspec

import holdfast_agent
from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.metrics import Metric, Sample, counter, gauge
from holdfast_agent.wire.messages import AskHealth, Health, Space

from .agent import Agent
from .calls import Call


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop knew of itself a second ago, for threads that must not look into its tables.

    ``started``: movers by role. ``ended``: movers by role and "done" or "failed".
    """

    leases: int = 0
    movers: dict[str, int] = {}
    started: dict[str, int] = {}
    ended: dict[tuple[str, str], int] = {}


def report_health(agent: Agent, call: Call[AskHealth]) -> None:
    """Space is looked up off the loop: a file system whose server is gone answers after minutes."""

    def settle(outcome: tuple[Space, ...] | HoldfastError) -> None:
        if isinstance(outcome, HoldfastError):
            call.fail(outcome)
            return
        movers = agent.leases.live_movers()
        call.reply(Health(clock=time.time(), leases=len(agent.leases), movers=movers, space=outcome))

    agent.repository_work.run(lambda: spaces(agent.settings), settle)


def numbers_of(agent: Agent) -> Numbers:
    """Called by the loop's thread at each tick."""
    movers: dict[str, int] = {}
    for mover in set(agent.movers_by_fd.values()):
        movers[mover.role] = movers.get(mover.role, 0) + 1
    return Numbers(
        leases=len(agent.leases), movers=movers, started=dict(agent.movers_started), ended=dict(agent.movers_ended)
    )


def spaces(settings: AgentSettings) -> tuple[Space, ...]:
    """The room where repositories, exports and caches are. What cannot be looked at is told so."""
    places = dict.fromkeys(settings.repository_paths, "repository") | {settings.state_dir: "state"}
    return tuple(_space(path, purpose) for path, purpose in places.items())


def _space(path: str, purpose: str) -> Space:
    try:
        found = os.statvfs(path)
    except OSError as error:
        return Space(path=path, purpose=purpose, error=error.strerror or str(error))
    unit = found.f_frsize
    return Space(path=path, purpose=purpose, size_bytes=found.f_blocks * unit, free_bytes=found.f_bavail * unit)


def metrics_of(settings: AgentSettings, numbers: Numbers) -> Iterable[Metric]:
    """What is told at the endpoint. Any thread; blocks as long as a file system takes."""
    slots = {
        "proxy": settings.proxy.slot_count if settings.proxy else 0,
        "repository": settings.repository.slot_count if settings.repository else 0,
    }
    known = [space for space in spaces(settings) if not space.error]
    yield gauge(
        "holdfast_agent_info",
        "The agent: always 1.",
        [Sample(1, {"agent": settings.agent_name, "version": holdfast_agent.__version__})],
    )
    yield gauge("holdfast_agent_slots", "Tasks that the host is sized for.", _by("role", slots))
    yield gauge("holdfast_agent_leases", "Sessions of managers that have something here.", numbers.leases)
    yield gauge("holdfast_agent_movers", "Data Movers that run.", _by("role", numbers.movers))
    yield counter("holdfast_agent_movers_started_total", "Data Movers started.", _by("role", numbers.started))
    yield counter(
        "holdfast_agent_movers_ended_total",
        "Data Movers that have ended, and how.",
        [Sample(count, {"role": role, "outcome": outcome}) for (role, outcome), count in sorted(numbers.ended.items())],
    )
    for name, text, value in (
        ("size", "Size of the file system, in bytes.", [each.size_bytes for each in known]),
        ("free", "What may be written there, in bytes.", [each.free_bytes for each in known]),
    ):
        labels = [{"path": each.path, "purpose": each.purpose} for each in known]
        yield gauge(f"holdfast_agent_{name}_bytes", text, map(Sample, value, labels))


def _by(label: str, numbers: dict[str, int]) -> list[Sample]:
    return [Sample(count, {label: name}) for name, count in sorted(numbers.items())]
