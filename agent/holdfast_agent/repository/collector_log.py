"""What the garbage collector has published, as every writer must honour it. Read here; written by the collector."""

from __future__ import annotations

import re

import msgspec

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged

from .documents import DocumentType, read_document
from .layout import GC
from .store import ObjectStore

_NAME = re.compile(rf"{GC}/(\d+)\.(begin|condemned|sweep|done)")


class PackList(msgspec.Struct, frozen=True):
    """Body of a condemned or sweep list."""

    generation: int
    packs: tuple[str, ...]


def packs_to_avoid(store: ObjectStore) -> frozenset[str]:
    """AVOID: packs condemned by unfinished generations and packs swept by finished ones.

    A writer reads this after its session record is durable and before it refers to anything, and keeps it for its
    whole life: a collector that condemns packs later waits for the writer's outcome. Raises if any part of the log
    cannot be read: a log that is read in part would let a writer refer to packs that are about to vanish.
    """
    generations: dict[int, set[str]] = {}
    for name in store.names(GC):
        match = _NAME.fullmatch(name)
        if match is None:
            raise FormatUnsupported(name=name, feature="a collector's log with other objects")
        generations.setdefault(int(match[1]), set()).add(match[2])
    avoided: set[str] = set()
    for generation, stages in generations.items():
        if "done" not in stages and "condemned" in stages:
            avoided.update(_packs(store, generation, "condemned", DocumentType.GC_CONDEMNED))
        if "sweep" in stages:
            avoided.update(_packs(store, generation, "sweep", DocumentType.GC_SWEEP))
    return frozenset(avoided)


def _packs(store: ObjectStore, generation: int, stage: str, document_type: DocumentType) -> tuple[str, ...]:
    name = f"{GC}/{generation}.{stage}"
    try:
        return msgspec.json.decode(read_document(store, name, document_type), type=PackList).packs
    except msgspec.DecodeError as error:
        raise ObjectDamaged(name=name, offset_bytes=0, reason=str(error)) from error
