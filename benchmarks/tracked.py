"""What an unchanged disk costs with change tracking, by the size of the audit: a million blocks, none like another.

Run: ``.venv/bin/python benchmarks/tracked.py [--blocks-log2 20]``. The disk is nbdkit's ``pattern``, read over NBD in
blocks of 64 KiB, so that 64 GiB have as many blocks, ids and nodes as a TiB in blocks of 1 MiB. The base's tree is made
of the disk's own ids first, which takes a minute and a half.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import results

from holdfast_agent.disks.open import open_disk
from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.mover.blocks import Block, BlockWork, by_id_alone
from holdfast_agent.mover.stages import StageClock
from holdfast_agent.repository.tree import TreeBuilder
from holdfast_agent.repository.writer import SessionWriter
from lab import repositories as lab
from lab.disks import nbdkit
from lab.movers import Site

LOG2 = 16
AT_ONCE = 32
ROUNDS = 3
RATES = (None, AuditRate(), AuditRate(1000), AuditRate(percent=1))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--blocks-log2", type=int, default=20)
    size_bytes = 1 << arguments.parse_args().blocks_log2 + LOG2
    with tempfile.TemporaryDirectory(prefix="holdfast-tracked-") as folder:
        site = Site(Path(folder))
        with nbdkit(site.folder / "disks", "pattern", f"size={size_bytes}") as served:
            measure(site, f"nbd+unix:{served}", Geometry(size_bytes, LOG2))


def measure(site: Site, url: str, geometry: Geometry) -> None:
    root = base_tree(site, url, geometry)
    print(f"{geometry.blocks} blocks, none changed\n")
    print("| audited blocks | transfer | with the start of both movers | memory, source and target |")
    print("|---|---|---|---|")
    found = []
    for rate in RATES:
        rounds = []
        for _ in range(ROUNDS):
            began = time.monotonic()
            done = site.backup(url, geometry, ChangeMode.CBT, (root, geometry), (), audit=rate)
            rounds.append((time.monotonic() - began, done))
            assert done.repository.root == root and not done.counters.missed_blocks
        whole_s, done = sorted(rounds, key=lambda each: each[0])[ROUNDS // 2]
        memory = " and ".join(f"{rss >> 20} MiB" for rss in done.rss_bytes)
        print(f"| {done.counters.audited_blocks} | {done.seconds:.2f} s | {whole_s:.2f} s | {memory} |", flush=True)
        found.append({"audited": done.counters.audited_blocks, "transfer_s": done.seconds, "whole_s": whole_s})
    results.write("tracked", {"blocks": geometry.blocks, "runs": found})


def base_tree(site: Site, url: str, geometry: Geometry) -> BlockId:
    """The tree of the disk as it is, stored without its blocks: only ids are looked at."""
    with (
        site.session() as session,
        closing(lab.open_at(site.folder)) as repository,
        SessionWriter(repository, session.sid, 9) as writer,
        TreeBuilder(geometry, None, site.folder) as tree,
    ):
        for block in read(site, url, geometry):
            tree.set(block.number, block.id)
        root = tree.finish(writer)
        writer.publish()
        return root


def read(site: Site, url: str, geometry: Geometry) -> Iterator[Block]:
    disk = open_disk(url, site.host())
    work = BlockWork(disk, geometry, site.keys, StageClock(), StageClock())

    def some(first: int) -> list[Block]:
        return work.read(first, [bytearray(geometry.block_bytes) for _ in range(AT_ONCE)], by_id_alone)

    with ThreadPoolExecutor(3) as pool:
        for blocks in pool.map(some, range(0, geometry.blocks, AT_ONCE)):
            yield from blocks
    disk.close()


if __name__ == "__main__":
    main()
