"""What the garbage collector has published, as every writer must honour it. Read here; written by the collector."""

from __future__ import annotations

import re

import msgspec

from holdfast_agent.errors import FormatUnsupported

from .documents import DocumentType, read_value
from .layout import GC, collector_object
from .store import ObjectStore

_NAME = re.compile(rf"{GC}/(\d+)\.(begin|condemned|sweep|done)")


class PackList(msgspec.Struct, frozen=True):
    """Body of a condemned or sweep list."""

    generation: int
    packs: tuple[str, ...]


def packs_to_avoid(store: ObjectStore) -> frozenset[str]:
    """AVOID: packs condemned by an unfinished generation, and packs swept by it or by the last one that finished.

    A writer reads this after its session record is durable and before it refers to anything, and keeps it for its
    whole life: a collector that condemns packs later waits for the writer's outcome. What earlier generations swept
    need not be read: it was durably gone before the last one began, so that the listing that a writer makes next does
    not show it, and names never recur. Raises if any part that matters cannot be read: a log that is read in part would
    let a writer refer to packs that are about to vanish.
    """
    generations = read_generations(store)
    finished = [generation for generation, stages in generations.items() if "done" in stages]
    last = max(finished, default=0)
    avoided: set[str] = set()
    for generation, stages in generations.items():
        if "done" not in stages and "condemned" in stages:
            avoided.update(read_packs(store, generation, "condemned", DocumentType.GC_CONDEMNED))
        if "sweep" in stages and ("done" not in stages or generation == last):
            avoided.update(read_packs(store, generation, "sweep", DocumentType.GC_SWEEP))
    return frozenset(avoided)


def packs_swept(store: ObjectStore) -> frozenset[str]:
    """All packs that any generation has swept: what may be named somewhere and is rightly absent. For verification.

    Raises if any list in the log cannot be read, that of what is condemned too.
    """
    swept: set[str] = set()
    for generation, stages in read_generations(store).items():
        if "condemned" in stages:
            read_packs(store, generation, "condemned", DocumentType.GC_CONDEMNED)
        if "sweep" in stages:
            swept.update(read_packs(store, generation, "sweep", DocumentType.GC_SWEEP))
    return frozenset(swept)


def read_generations(store: ObjectStore) -> dict[int, set[str]]:
    """Generation → the stages of it that are published. Raises :class:`FormatUnsupported` for objects of others."""
    generations: dict[int, set[str]] = {}
    for name in store.names(GC):
        match = _NAME.fullmatch(name)
        if match is None:
            raise FormatUnsupported(name=name, feature="a collector's log with other objects")
        generations.setdefault(int(match[1]), set()).add(match[2])
    return generations


def read_packs(store: ObjectStore, generation: int, stage: str, document_type: DocumentType) -> tuple[str, ...]:
    """The packs of a condemned or sweep list. Raises :class:`ObjectDamaged`, :class:`ObjectMissing`."""
    return read_value(store, collector_object(generation, stage), document_type, PackList).packs
