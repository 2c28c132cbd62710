"""Which packs may go: a pack dies when every live record in it has another home."""

from __future__ import annotations

import array
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from holdfast_agent.model.ids import ID_BYTES, BlockId

from ..layout import parse_pack_name
from .census import Census
from .runs import SortedRuns

SPARSE_BELOW = 0.6
"""A pack of whose bytes less than this part is live is worth copying: at most 60 bytes are moved to free 40."""

_MOST_LOST = 100_000


class Choice(msgspec.Struct, frozen=True):
    """``dead``: numbers of packs that may go now. ``sparse``: of packs worth copying, with the live bytes that nothing
    else holds. ``moving``: what must be copied for that: number of the pack (4 bytes, big-endian) and id; close it.
    ``lost``: live records that no pack of the census holds, a hundred thousand at most.
    """

    dead: list[int]
    sparse: dict[int, int]
    moving: SortedRuns
    live_records: int
    live_bytes: int
    lost: list[BlockId]


def choose(census: Census, live: SortedRuns, active: Collection[str], folder: Path) -> Choice:
    """Judge every pack. ``active``: sessions whose packs are left alone: their references are not known yet.

    Of several homes of a record one is its *main* home: that in the pack with the largest live part, so that copies
    which a killed collector left empty the old packs, not the new ones.
    """
    shared, records, lost = _live_bytes(census, live)
    part = [live_bytes / max(1, total) for live_bytes, total in zip(shared, census.record_bytes, strict=True)]
    main = array.array("Q", bytes(8 * len(census.names)))
    last_hope: set[int] = set()
    moving = SortedRuns(4 + ID_BYTES, folder)
    try:
        for identity, sound, doubtful in census.homes(live):
            if sound:
                pack, length = max(sound, key=lambda home: (part[home[0]], -home[0]))
                main[pack] += length
                if part[pack] < SPARSE_BELOW:
                    moving.add([pack.to_bytes(4, "big") + identity])
            else:
                last_hope.update(pack for pack, _ in doubtful)
    except BaseException:
        moving.close()
        raise
    dead: list[int] = []
    sparse: dict[int, int] = {}
    for pack, name in enumerate(census.names):
        if census.kept(pack) or pack in last_hope or parse_pack_name(name).sid in active:
            continue
        if not main[pack]:
            dead.append(pack)
        elif part[pack] < SPARSE_BELOW:
            sparse[pack] = main[pack]
    return Choice(dead, sparse, moving, records, sum(main), lost)


def rescue(census: Census, live: SortedRuns, condemned: Iterable[str]) -> list[str]:
    """The sweep: those of ``condemned`` that are there and hold no live record whose every home is condemned."""
    names = set(condemned)
    going = {number for number, name in enumerate(census.names) if name in names and not census.kept(number)}
    needed: set[int] = set()
    for _, sound, doubtful in census.homes(live):
        if all(pack in going for pack, _ in sound):
            needed.update(pack for pack, _ in (*sound, *doubtful))
    return sorted(census.names[pack] for pack in going - needed)


def _live_bytes(census: Census, live: SortedRuns) -> tuple[array.array[int], int, list[BlockId]]:
    """Live bytes of each pack, copies counted in every one; the number of live records, and those without a home."""
    found = array.array("Q", bytes(8 * len(census.names)))
    records = 0
    lost: list[BlockId] = []
    for identity, sound, doubtful in census.homes(live):
        records += 1
        if not sound and not doubtful and len(lost) < _MOST_LOST:
            lost.append(BlockId(identity))
        for pack, length in sound:
            found[pack] += length
    return found, records, lost
