"""The local index at ten million blocks: look-ups, bytes a block, and what a pass of `have?` costs.

Rows are made as a reader of segments makes them, pack by pack with random ids, so that the tree of the database has
the shape of a real one. Half of the ids that are looked up are there, half are not, in batches as an Offer has them.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import results

from holdfast_agent.model.ids import BlockId, new_sid
from holdfast_agent.repository.index import LocalIndex
from holdfast_agent.repository.packs import Entry, PackContents
from holdfast_agent.repository.repository import Repository, create_repository
from holdfast_agent.sealing.slots import public_slot

REPOSITORY_ID = "7" * 32
RECORDS_A_PACK = 1000
PACKS_AT_ONCE = 16
RECORD_BYTES = 64 << 10
SAMPLE = 20
LIMIT_US = 30.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--blocks", type=int, default=10_000_000)
    arguments.add_argument("--lookups", type=int, default=200_000)
    arguments.add_argument("--folder", type=Path, default=None, help="where the index is built; 120 bytes a block")
    options = arguments.parse_args()
    if options.folder is not None:
        options.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="holdfast-index-", dir=options.folder) as name:
        folder = Path(name)
        create_repository(folder / "repository", REPOSITORY_ID, {"first": public_slot(REPOSITORY_ID)})
        repository = Repository.open(folder / "repository", folder / "cache")
        began = time.monotonic()
        known = fill(repository.index, options.blocks)
        took = time.monotonic() - began
        size = sum(path.stat().st_size for path in (folder / "cache").rglob("index-*.sqlite"))
        print(f"{options.blocks:,} blocks in {took:.0f} s, {took / options.blocks * 1e6:.1f} µs and ", end="")
        print(f"{size / options.blocks:.0f} bytes a block")
        found = {batch: look_up(repository.index, known, options.lookups, batch) for batch in (1, 64, 4096)}
        for batch, each in found.items():
            print(f"look-ups {batch} at once: {each:.1f} µs an id")
        print(f"wanted: less than {LIMIT_US:.0f} µs")
        repository.close()
    results.write("index", {"blocks": options.blocks, "look_up_us_by_ids_at_once": found})


def fill(index: LocalIndex, blocks: int) -> list[BlockId]:
    """Insert rows; gives back a sample of their ids."""
    sample: list[BlockId] = []
    sid = new_sid()
    for first in range(0, blocks // RECORDS_A_PACK, PACKS_AT_ONCE):
        packs = []
        for number in range(first, min(first + PACKS_AT_ONCE, blocks // RECORDS_A_PACK)):
            ids = [BlockId(os.urandom(32)) for _ in range(RECORDS_A_PACK)]
            sample += random.sample(ids, SAMPLE)
            entries = tuple(
                Entry(identity, 64 + place * RECORD_BYTES, RECORD_BYTES, RECORD_BYTES, 1, 1, 1, 1)
                for place, identity in enumerate(ids)
            )
            packs.append(PackContents(f"{sid}-1-{number + 1}", RECORDS_A_PACK * RECORD_BYTES, bytes(32), entries))
        index.add(None, packs)
    return sample


def look_up(index: LocalIndex, known: list[BlockId], lookups: int, batch: int) -> float:
    """Microseconds an id."""
    lookups = min(lookups, 20_000 * batch)
    there = random.sample(known, min(len(known), lookups // 2))
    ids = [*there, *(BlockId(os.urandom(32)) for _ in there)]
    random.shuffle(ids)
    began = time.monotonic()
    found = sum(len(index.find(ids[start : start + batch])) for start in range(0, len(ids), batch))
    took = time.monotonic() - began
    assert found == len(there), found
    return took / len(ids) * 1e6


if __name__ == "__main__":
    main()
