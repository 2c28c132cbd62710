"""Four writers, two collectors, a reader and a verifier at once on one repository, one killed after the other.

The moments come from a seed that is printed; HOLDFAST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.roots import open_point
from lab import busy_repository as busy
from lab import repositories as lab
from lab.chance import told_chance
from lab.contents import assert_same

_FEWEST_POINTS = 4
_PATIENCE = 10
CAST = ("writer", "writer", "writer", "writer", "collector", "collector", "reader", "verifier")


class Stage:
    """The processes at work, each replaced when it is killed."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.rng = rng
        self.kills = dict.fromkeys(CAST, 0)
        self.running = [(kind, self._start(kind)) for kind in CAST]

    def kill_one(self, longest_life_s: float) -> None:
        time.sleep(self.rng.uniform(0.05, longest_life_s))  # the moment itself, not a wait for something
        place = self.rng.randrange(len(self.running))
        kind, process = self.running[place]
        self.check_alive()
        process.kill()
        process.wait()
        self.kills[kind] += 1
        self.running[place] = (kind, self._start(kind))

    def check_alive(self) -> None:
        for kind, process in self.running:
            assert process.poll() is None, f"a {kind} failed by itself:\n{self._log()}"

    def stop(self) -> None:
        for _, process in self.running:
            process.kill()
            process.wait()

    def _start(self, kind: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "lab.busy_repository", kind, str(self.folder), str(self.rng.random())]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def _log(self) -> str:
        return (self.folder / "log").read_text()[-6000:]


def run(folder: Path, kills: int, longest_life_s: float = 0.6) -> None:
    """Kill so many of them; then every committed point must be whole, and what was left over collectable.

    On a busy machine more of them, each a little later, until the writers have come to write.
    """
    lab.create(folder / "repository")
    stage = Stage(folder, told_chance())
    try:
        for number in range(_PATIENCE * kills):
            stage.kill_one(longest_life_s * (1 + number / kills))
            if number + 1 >= kills and len(committed_points(folder)) >= _FEWEST_POINTS:
                break
        stage.check_alive()
    finally:
        stage.stop()
    check(folder)


def committed_points(folder: Path) -> set[object]:
    return {line["committed"] for line in busy.ledger_lines(folder) if "committed" in line}


def check(folder: Path) -> None:
    lines = busy.ledger_lines(folder)
    committed = committed_points(folder)
    pruning = {line["pruning"] for line in lines if "pruning" in line}
    contents = busy.contents(folder)
    repository = lab.open_at(folder)
    for _ in range(2):  # as it was left, and after the next collectors have ended what was begun
        points = {entry.sid: entry for entry in repository.points()}
        assert committed - pruning <= points.keys(), "a committed point is gone"
        for sid, entry in points.items():
            found = lab.restore(repository, open_point(entry, lab.KEYS))
            assert_same(found, {number: lab.block(kind) for number, kind in contents[sid].items()})
        collect(repository)
        collection = collect(repository)
    assert collection.lost_records == 0
    assert len(committed) >= _FEWEST_POINTS, "the writers hardly came to write"
    assert repository.index.rebuild() == repository.index.rebuild()
    report = verify(repository, 2, keys=lab.KEYS)
    assert report.ok, report.findings
    repository.close()
