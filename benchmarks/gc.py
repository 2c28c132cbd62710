"""Garbage collection of a million blocks and 20 points: time and memory of the collector as the agent runs it.

One disk of 1,000,000 blocks; 19 incrementals of 10,000 blocks each, half of them in the same place every time, as logs
and databases are, half elsewhere, in runs of 64. Then the ten oldest points are pruned. Records are 608 bytes and packs
1 MiB, so that counts are those of a large repository and building it takes a minute, not a day.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results

from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId, new_sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.rules import Compression
from holdfast_agent.repository.repository import Repository, create_repository
from holdfast_agent.repository.tree import TreeBuilder, TreeReader
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.keys import PUBLIC, RepositoryKeys
from holdfast_agent.sealing.records import RecordKind, seal_record
from holdfast_agent.sealing.roots import pack_set_digest, root_id, seal_point
from holdfast_agent.sealing.slots import public_slot

REPOSITORY_ID = "5" * 32
RUN = 64
PAYLOAD_BYTES = 512
PACK_BYTES = 1 << 20
MIB = 1 << 20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--blocks", type=int, default=1_000_000)
    arguments.add_argument("--points", type=int, default=20)
    arguments.add_argument("--folder", type=Path, default=None, help="where the repository is built; 3 GB")
    options = arguments.parse_args()
    if options.folder is not None:
        options.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="holdfast-gc-", dir=options.folder) as name:
        folder = Path(name).resolve()
        began = time.monotonic()
        prune = build(folder, options.blocks, options.points)
        print(f"built in {time.monotonic() - began:.0f} s")
        runs = {}
        for turn, what in (("dry-run", "dry run"), ("prune", "after pruning half of the points"), ("idle", "again")):
            if turn == "prune":
                repository = Repository.open(folder / "repository", folder / "cache")
                for sid in prune:
                    repository.tombstone(sid)
                repository.close()
            told, runs[what] = measure(folder, turn == "dry-run")
            print(f"{what}: {told}")
    results.write("gc", {"blocks": options.blocks, "points": options.points, "runs": runs})


def build(folder: Path, blocks: int, points: int) -> list[str]:
    keys = RepositoryKeys.derive(PUBLIC, REPOSITORY_ID)
    geometry = Geometry(blocks << 16, 16)
    create_repository(folder / "repository", REPOSITORY_ID, {"first": public_slot(REPOSITORY_ID)})
    repository = Repository.open(folder / "repository", folder / "cache")
    rng = random.Random(1)
    base: Point | None = None
    sids = []
    for number in range(points):
        changed = range(blocks) if base is None else changes(rng, blocks)
        sid = new_sid()
        lock = repository.begin_session(sid)
        tree = base and TreeReader(repository.reader(), root_id(base.disks[0].root), geometry)
        with (
            SessionWriter(repository, sid, 1, data_pack_bytes=PACK_BYTES) as writer,
            TreeBuilder(geometry, tree) as builder,
        ):
            for block in changed:
                identity = BlockId(os.urandom(32))
                plain = rng.randbytes(PAYLOAD_BYTES)
                writer.append(*seal_record(RecordKind.DATA, plain, identity, keys.data_keys(), Compression.NONE))
                builder.set(block, identity)
            root = builder.finish(writer)
            packs = writer.publish()
        disk = DiskPoint("disk", "disk", geometry.size_bytes, 16, root.hex(), ChangeMode.FULL, "a benchmark")
        digest = pack_set_digest(pack.name for pack in packs)
        base = Point(sid, REPOSITORY_ID, float(number), "job", "server", "vm", "vm", (disk,), digest)
        repository.commit(seal_point(base, keys), packs)
        lock.close()
        sids.append(sid)
    repository.close()
    return sids[: points // 2]


def changes(rng: random.Random, blocks: int) -> list[int]:
    hot = range(blocks // 200)
    cold = {first + each for first in rng.sample(range(0, blocks - RUN, RUN), len(hot) // RUN) for each in range(RUN)}
    return sorted({*hot, *cold})


def measure(folder: Path, dry_run: bool) -> tuple[str, dict[str, float]]:
    task = {
        "ticket": "bench", "repository": str(folder / "repository"), "cache_dir": str(folder / "cache"),
        "clock_file": str(folder / "clock"), "dry_run": dry_run,
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "holdfast_agent.service.collector_process"]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        lines = process.stdout.readlines()
        process.stdin.close()
    took = time.monotonic() - began
    ended = json.loads(lines[-1])
    assert ended.get("collection"), ended
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, cpu = used.ru_maxrss / 1024, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    found = ended["collection"]
    told = (
        f"{took:.1f} s ({cpu:.1f} s of a processor), at most {peak:.0f} MiB of memory; "
        f"{found['live_records']:,} live records, {found['packs']:,} packs of {found['stored_bytes'] / MIB:,.0f} MiB, "
        f"{found['swept_packs']:,} swept, {found['moved_bytes'] / MIB:,.0f} MiB moved, "
        f"{found['freed_bytes'] / MIB:,.0f} MiB freed"
    )
    return told, {"took_s": took, "cpu_s": cpu, "memory_mib": peak, "live_records": found["live_records"]}


if __name__ == "__main__":
    main()
