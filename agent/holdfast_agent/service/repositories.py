"""Handlers of messages for the role repository. All work on storage happens in threads, never in the loop's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import (
    FormatUnsupported,
    ObjectDamaged,
    PointNotFound,
    RepositoryDenied,
    UsageError,
)
from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.paths import is_below
from holdfast_agent.model.points import PointEntry
from holdfast_agent.wire.messages import (
    AddKeySlot,
    BlobRecord,
    CreateRepository,
    IndexRebuilt,
    KeySlot,
    ListPoints,
    OpenRepository,
    PointList,
    RaiseKeyEpoch,
    ReadBlob,
    ReadPoint,
    RebuildIndex,
    RemoveKeySlot,
    RepositoryFacts,
    RetainedPoint,
)

from .agent import Agent
from .calls import Call
from .identity import identity
from .trusted_clock import TrustedClock

if TYPE_CHECKING:
    from holdfast_agent.repository.repository import Repository

_PAGE_POINTS = 500
_PAGE_BYTES = 4 << 20  # of points, so that a page fits a message


def allowed_repository(settings: AgentSettings, path: str) -> Path:
    """The real path of a repository that managers may use. Raises :class:`RepositoryDenied`."""
    if not is_below(path, settings.repository_paths):
        raise RepositoryDenied(path=path[:1024], reason="it lies outside the directories open to managers")
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def opened(settings: AgentSettings, path: str) -> Iterator[Repository]:
    """An allowed repository, closed at the end. For threads: opening reads the storage."""
    from holdfast_agent.repository.repository import Repository  # an idle agent has no need of it

    allowed = allowed_repository(settings, path)
    clock = TrustedClock(settings.clock_file)
    repository = Repository.open(allowed, settings.cache_dir, clock=clock, host=identity(settings))
    with contextlib.closing(repository):
        yield repository


def create_repository(agent: Agent, call: Call[CreateRepository]) -> None:
    request = call.request

    def work() -> RepositoryFacts:
        from holdfast_agent.repository.repository import create_repository

        path = allowed_repository(agent.settings, request.repository)
        slots = {slot.name: slot.body for slot in request.slots}
        if len(slots) != len(request.slots):
            raise UsageError(reason="two key slots have the same name")
        create_repository(path, request.repository_id, slots)
        with opened(agent.settings, request.repository) as repository:
            return _facts(repository)

    agent.repository_work.run(work, call.settle)


def open_repository(agent: Agent, call: Call[OpenRepository]) -> None:
    def work() -> RepositoryFacts:
        from holdfast_agent.repository.scratch import clear_scratch

        with opened(agent.settings, call.request.repository) as repository:
            repository.recover()
            clear_scratch(allowed_repository(agent.settings, call.request.repository))
            return _facts(repository)

    agent.repository_work.run(work, call.settle)


def add_key_slot(agent: Agent, call: Call[AddKeySlot]) -> None:
    def work() -> RepositoryFacts:
        with opened(agent.settings, call.request.repository) as repository:
            repository.key_slots.add(call.request.slot.name, call.request.slot.body)
            return _facts(repository)

    agent.repository_work.run(work, call.settle)


def remove_key_slot(agent: Agent, call: Call[RemoveKeySlot]) -> None:
    def work() -> RepositoryFacts:
        with opened(agent.settings, call.request.repository) as repository:
            repository.key_slots.remove(call.request.slot)
            return _facts(repository)

    agent.repository_work.run(work, call.settle)


def raise_key_epoch(agent: Agent, call: Call[RaiseKeyEpoch]) -> None:
    def work() -> RepositoryFacts:
        with opened(agent.settings, call.request.repository) as repository:
            repository.raise_epoch(call.request.epoch)
            return _facts(repository)

    agent.repository_work.run(work, call.settle)


def list_points(agent: Agent, call: Call[ListPoints]) -> None:
    def work() -> PointList:
        with opened(agent.settings, call.request.repository) as repository:
            limit = min(max(1, call.request.limit), _PAGE_POINTS)
            return _page(repository, call.request.after, limit, call.request.hidden)

    agent.repository_work.run(work, call.settle)


def read_point(agent: Agent, call: Call[ReadPoint]) -> None:
    def work() -> PointList:
        with opened(agent.settings, call.request.repository) as repository:
            return told_points(repository, [repository.point(call.request.sid)], more=False)

    agent.repository_work.run(work, call.settle)


def read_blob(agent: Agent, call: Call[ReadBlob]) -> None:
    def work() -> BlobRecord:
        try:
            blob = BlockId(bytes.fromhex(call.request.blob))
        except ValueError:
            raise UsageError(reason="a blob is named by its id in hex digits") from None
        with opened(agent.settings, call.request.repository) as repository:
            return BlobRecord(record=repository.read_blob(blob))

    agent.repository_work.run(work, call.settle)


def rebuild_index(agent: Agent, call: Call[RebuildIndex]) -> None:
    def work() -> IndexRebuilt:
        with opened(agent.settings, call.request.repository) as repository:
            return IndexRebuilt(records=repository.index.rebuild())

    agent.repository_work.run(work, call.settle)


def _facts(repository: Repository) -> RepositoryFacts:
    total, free = repository.space()
    slots = tuple(KeySlot(name, body) for name, body in sorted(repository.key_slots.all().items()))
    return RepositoryFacts(
        repository_id=repository.repository_id,
        slots=slots,
        total_bytes=total,
        free_bytes=free,
        epoch=repository.epoch,
    )


def _page(repository: Repository, after: str, limit: int, hidden: bool) -> PointList:
    """Points in the order of their ids. Outcomes that are no readable point are passed over; verify names them."""
    points: list[PointEntry] = []
    size = 0
    for sid in repository.hidden_sids() if hidden else repository.point_sids():
        if sid <= after:
            continue
        try:
            entry = repository.committed(sid) if hidden else repository.point(sid)
        except (PointNotFound, ObjectDamaged, FormatUnsupported):
            continue
        if entry is None:
            continue
        size += len(entry.body) + len(entry.mac)
        if points and (len(points) >= limit or size > _PAGE_BYTES):
            return told_points(repository, points, more=True)
        points.append(entry)
    return told_points(repository, points, more=False)


def told_points(repository: Repository, points: list[PointEntry], more: bool) -> PointList:
    """A page of points with what protects them."""
    held = repository.retentions.of_many([entry.sid for entry in points])
    retained = tuple(RetainedPoint(sid=sid, until=each.until, hold=each.hold) for sid, each in sorted(held.items()))
    return PointList(points=tuple(points), more=more, retained=retained)
