"""The collector's log: one generation after the other, each step published once and for all.

Every step is created only if its name is free. Who comes second adopts what the first has published, so that two
collectors, or one that was suspended for a week, never act on two different lists.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import msgspec
from blake3 import blake3

from holdfast_agent.errors import ObjectMissing
from holdfast_agent.model.ids import Sid

from ..collector_log import PackList, read_generations, read_packs
from ..documents import DocumentType, encode_document, read_value
from ..layout import collector_object
from ..store import ObjectExists, ObjectStore

MOST_CONDEMNED = 500_000
"""Packs that one generation condemns: its list stays below the size of a document. The rest wait for the next."""

_TYPES = {"condemned": DocumentType.GC_CONDEMNED, "sweep": DocumentType.GC_SWEEP}


class Begin(msgspec.Struct, frozen=True):
    """Body of ``gc/<generation>.begin``: the roots that were there. ``digest``: hex BLAKE3 of their sids, sorted."""

    generation: int
    started: float
    roots: tuple[Sid, ...]
    count: int
    digest: str


class Generation:
    """The newest generation that is not done. Knows what is published; holds nothing open."""

    def __init__(self, store: ObjectStore, number: int, stages: frozenset[str]) -> None:
        self.number = number
        self._store = store
        self._stages = set(stages)

    @property
    def begun(self) -> bool:
        return "begin" in self._stages

    def begin(self, roots: Sequence[Sid]) -> None:
        """Publish ``begin``, unless it is. That the one before is done, :func:`current` has seen."""
        digest = blake3("".join(roots).encode()).hexdigest()
        body = msgspec.json.encode(Begin(self.number, time.time(), tuple(roots), len(roots), digest))
        self._create("begin", DocumentType.GC_BEGIN, body)

    def condemned(self) -> tuple[str, ...] | None:
        """The published list, or None."""
        return self._packs("condemned")

    def condemn(self, packs: Sequence[str]) -> tuple[str, ...]:
        """Publish the condemned list, or adopt the one that was published first; which it is."""
        return self._publish("condemned", packs)

    def sweep(self) -> tuple[str, ...] | None:
        """The published list, or None."""
        return self._packs("sweep")

    def publish_sweep(self, packs: Sequence[str]) -> tuple[str, ...]:
        """Publish the sweep, or adopt the one that was published first. Nothing but what it returns is ever deleted."""
        return self._publish("sweep", packs)

    def done(self) -> None:
        """Publish the end, once every pack of the sweep is durably gone."""
        self._create(
            "done", DocumentType.GC_DONE, msgspec.json.encode({"generation": self.number, "done": time.time()})
        )

    def _packs(self, stage: str) -> tuple[str, ...] | None:
        if stage not in self._stages:
            return None
        return read_packs(self._store, self.number, stage, _TYPES[stage])

    def _publish(self, stage: str, packs: Sequence[str]) -> tuple[str, ...]:
        body = msgspec.json.encode(PackList(self.number, tuple(sorted(packs)[:MOST_CONDEMNED])))
        self._create(stage, _TYPES[stage], body)
        return read_packs(self._store, self.number, stage, _TYPES[stage])

    def _create(self, stage: str, document_type: DocumentType, body: bytes) -> None:
        if stage not in self._stages:
            name = collector_object(self.number, stage)
            with contextlib.suppress(ObjectExists):  # another collector was first; what it said counts
                self._store.create(name, [encode_document(name, document_type, body)])
            self._stages.add(stage)


def current(store: ObjectStore) -> Generation:
    """The generation to work on: the newest if it is not done, else the next. Raises if the log cannot be listed."""
    generations = read_generations(store)
    newest = max(generations, default=0)
    stages = generations.get(newest, {"done"})
    if "done" in stages:
        return Generation(store, newest + 1, frozenset())
    return Generation(store, newest, frozenset(stages))


def earlier_roots(store: ObjectStore) -> frozenset[Sid]:
    """Roots that the newest ``begin`` in the log recorded: their outcomes must be there still."""
    for number in sorted(read_generations(store), reverse=True):
        name = collector_object(number, "begin")
        try:
            begin = read_value(store, name, DocumentType.GC_BEGIN, Begin)
        except ObjectMissing:
            continue
        return frozenset(begin.roots)
    return frozenset()


def forget_begins(store: ObjectStore, before: int) -> None:
    """Remove the lists of roots of generations ``before`` this one: the largest part of the log, of no use any more.

    The condemned and sweep lists and the ends stay for ever (some 100 bytes a pack): they hold their names, so that a
    collector that was suspended long ago finds every later step taken. Writers read those of the last generation only.
    """
    store.remove_all(
        collector_object(number, "begin")
        for number, stages in read_generations(store).items()
        if number < before and "begin" in stages
    )
