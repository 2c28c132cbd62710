"""Index segments: small ones are put together, and packs that are gone leave them.

In this order nothing is ever unnamed: the new segment is durable before the old ones are removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing
from holdfast_agent.model.ids import Sid
from holdfast_agent.sealing.keys import repository_id_bytes

from .. import layout
from ..packs import PackContents
from ..repository import Repository
from ..segments import MOST_SEGMENT_BYTES, SegmentTables, decode_segment, encode_segment, open_segment
from ..store import ObjectExists

_SMALL_ENTRIES = 50_000
_BASE_ENTRIES = 100_000  # some 6 MB; 60 MB while it is put together
_MANY = 16  # small segments that are worth putting together


def consolidate(repository: Repository, generation: int) -> int:
    """Replace segments of decided sessions by ``index/base-<generation>-<n>``; how many were replaced.

    Segments of sessions at work stay: their writers number the next ones by what is there. A segment that is damaged
    stays as well; readers go by the packs' own tables instead.
    """
    store = repository.store
    repository.index.update()
    segments = sorted(store.names(layout.INDEX))
    present = {name.rpartition("/")[2] for name in store.names(layout.PACKS)}  # after the segments that name them
    stale: list[str] = []
    small: list[str] = []
    named: set[str] = set()
    for name in segments:
        tables = _tables(repository, name)
        if tables is None or not _settled(repository, name):
            continue
        packs = {pack for pack, _, _ in tables.packs}
        if not packs <= present:
            stale.append(name)
        elif len(tables.places) < _SMALL_ENTRIES:
            small.append(name)
        else:
            named |= packs
    old = stale + (small if len(small) >= _MANY else [])
    if old:
        new = [_publish(repository, generation, packs) for packs in _shards(repository, old, present, named)]
        repository.index.replace_segments(old, new, lambda: store.remove_all(old))
    return len(old)


def _tables(repository: Repository, name: str) -> SegmentTables | None:
    try:
        data = repository.store.read(name, MOST_SEGMENT_BYTES)
        return open_segment(name, data, repository_id_bytes(repository.repository_id))
    except (ObjectDamaged, ObjectMissing, FormatUnsupported):
        return None


def _settled(repository: Repository, name: str) -> bool:
    writer = name.removeprefix(f"{layout.INDEX}/").partition("-")[0]
    return writer == "base" or repository.decided(Sid(writer))


def _shards(
    repository: Repository, old: list[str], present: Collection[str], named: set[str]
) -> Iterator[tuple[PackContents, ...]]:
    """The packs of ``old`` that are there, each once, in groups of a bounded size. Raises if one cannot be read."""
    held: list[PackContents] = []
    for name in old:
        try:
            data = repository.store.read(name, MOST_SEGMENT_BYTES)
        except ObjectMissing:
            continue  # another collector has put one in its place that names the same packs
        for pack in decode_segment(name, data, repository_id_bytes(repository.repository_id)).packs:
            if pack.name in present and pack.name not in named:
                named.add(pack.name)
                held.append(pack)
        if sum(len(pack.entries) for pack in held) >= _BASE_ENTRIES:
            yield tuple(held)
            held = []
    if held:
        yield tuple(held)


def _publish(repository: Repository, generation: int, packs: tuple[PackContents, ...]) -> str:
    shard = 0
    while True:
        shard += 1
        name = layout.base_segment_object(generation, shard)
        try:
            data = encode_segment(name, repository_id_bytes(repository.repository_id), packs)
            repository.store.create(name, [data])
        except ObjectExists:
            continue  # another shard, or another collector's
        return name
