"""Handlers of messages for the role proxy."""

from __future__ import annotations

from holdfast_agent.errors import DiskDenied
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.model.paths import is_below
from holdfast_agent.wire.messages import DiskFacts, ProbeDisk
from holdfast_agent.wire.movers import MoverHost

from .agent import Agent
from .calls import Call


def probe_disk(agent: Agent, call: Call[ProbeDisk]) -> None:
    host, disk = agent.host, call.request.disk
    agent.repository_work.run(lambda: _probe(host, disk), call.settle)


def _probe(host: MoverHost, disk: str) -> DiskFacts:
    url = parse_disk_url(disk)
    if not is_below(url.path, host.disk_paths):
        raise DiskDenied(host=host.agent, url=str(url), reason="it lies outside the directories open to managers")
    from holdfast_agent.disks.open import open_disk  # an idle agent has no need of it

    with open_disk(url, host) as opened:
        return DiskFacts(size_bytes=opened.size_bytes)
