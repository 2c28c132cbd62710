"""One process of a busy repository: a writer, a collector, a reader or a verifier, until it is killed.

Run as ``python -m lab.busy_repository KIND FOLDER SEED``. A writer appends to ``FOLDER/ledger-<pid>`` what a point
will hold, that it is committed, and that it will be pruned: what a line says is true whenever the process was killed.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast_agent.errors import ObjectMissing, PointNotFound, RepositoryError
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.points import Point
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.roots import open_point
from lab import repositories as lab
from lab.contents import assert_same

BLOCKS = 12
GEOMETRY = Geometry(BLOCKS * lab.BLOCK, lab.LOG2)
KINDS_OF_BLOCKS = 40
"""Few, so that writers store the same blocks as others, and blocks that were pruned come back."""
KEPT = 2


def write(folder: Path, rng: random.Random) -> None:
    ledger = (folder / f"ledger-{os.getpid()}").open("w", buffering=1)
    repository = lab.open_at(folder)
    points: list[tuple[Point, dict[int, int]]] = []
    while True:
        base, content = rng.choice(points) if points and rng.random() < 0.7 else (None, {})
        changed = range(BLOCKS) if base is None else rng.sample(range(BLOCKS), rng.randint(1, 6))
        content = content | {number: rng.randrange(KINDS_OF_BLOCKS) for number in changed}
        sid = new_sid()
        ledger.write(json.dumps({"begun": sid, "content": sorted(content.items())}) + "\n")
        point = backup(repository, sid, base, content, list(changed))
        ledger.write(json.dumps({"committed": sid}) + "\n")
        points.append((point, content))
        while len(points) > KEPT:
            old, _ = points.pop(rng.randrange(len(points)))
            ledger.write(json.dumps({"pruning": old.sid}) + "\n")
            repository.tombstone(old.sid)


def backup(repository: Repository, sid: Sid, base: Point | None, content: dict[int, int], changed: list[int]) -> Point:
    """An incremental sends what must be sent again too; the lab's asserts that it was given."""
    numbers = sorted(content) if base is not None else changed
    return lab.backup(repository, {number: lab.block(content[number]) for number in numbers}, GEOMETRY, base, sid)


def gather(folder: Path, rng: random.Random) -> None:
    repository = lab.open_at(folder)
    while True:
        collect(repository)


def read(folder: Path, rng: random.Random) -> None:
    """Restores points; one that is pruned meanwhile may vanish, but never turn into something else."""
    repository = lab.open_at(folder)
    while True:
        sids = repository.point_sids()
        if not sids:
            continue
        sid = rng.choice(sids)
        try:
            found = lab.restore(repository, open_point(repository.point(sid), lab.KEYS))
        except PointNotFound:
            continue
        except ObjectMissing:
            if repository.tombstones.hides(sid):
                continue
            raise
        content = contents(folder)[sid]
        assert_same(found, {number: lab.block(kind) for number, kind in content.items()}, f"point {sid} is another")


def check(folder: Path, rng: random.Random) -> None:
    """Verifies beside all others: whatever they do, nothing is ever wrong."""
    repository = lab.open_at(folder)
    while True:
        report = verify(repository, rng.randint(0, 2), keys=lab.KEYS)
        assert report.ok, report.findings


def contents(folder: Path) -> dict[str, dict[int, int]]:
    """Sid → number of block → kind of block, of all points that were begun."""
    return {line["begun"]: dict(map(tuple, line["content"])) for line in ledger_lines(folder) if "begun" in line}


def ledger_lines(folder: Path) -> list[dict[str, Any]]:
    """All lines of all ledgers; the last line of a killed writer may be cut."""
    lines = []
    for path in folder.glob("ledger-*"):
        lines += [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return lines


MAIN: dict[str, Callable[[Path, random.Random], None]] = {
    "writer": write,
    "collector": gather,
    "reader": read,
    "verifier": check,
}


if __name__ == "__main__":
    try:
        MAIN[sys.argv[1]](Path(sys.argv[2]), random.Random(sys.argv[3]))
    except RepositoryError as error:
        print(f"{sys.argv[1]}: {error.code}: {error}", file=sys.stderr)
        sys.exit(2)
