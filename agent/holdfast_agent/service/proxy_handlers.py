"""Handlers of messages for the role proxy."""

from __future__ import annotations

import contextlib

from holdfast_agent.wire.messages import DiskFacts, ProbeDisk
from holdfast_agent.wire.movers import MoverHost

from .agent import Agent
from .calls import Call


def probe_disk(agent: Agent, call: Call[ProbeDisk]) -> None:
    host, disk = agent.host, call.request.disk
    agent.repository_work.run(lambda: _probe(host, disk), call.settle)


def _probe(host: MoverHost, disk: str) -> DiskFacts:
    from holdfast_agent.disks.open import open_disk  # an idle agent has no need of it

    with contextlib.closing(open_disk(disk, host)) as opened:  # refuses what lies outside the directories allowed
        return DiskFacts(size_bytes=opened.size_bytes)
