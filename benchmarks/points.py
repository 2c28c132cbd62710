"""Opening a repository of ten thousand restore points and listing them; the whole command beside it."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import results

from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import HOLE, new_sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.repository.repository import Repository, create_repository
from holdfast_agent.sealing.keys import PUBLIC, RepositoryKeys
from holdfast_agent.sealing.roots import pack_set_digest, seal_point
from holdfast_agent.sealing.slots import public_slot
from lab.installation import installed

REPOSITORY_ID = "8" * 32
LIMIT_S = 1.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--points", type=int, default=10_000)
    count: int = arguments.parse_args().points
    with tempfile.TemporaryDirectory(prefix="holdfast-points-") as name, installed(Path(name) / "home") as house:
        place = house.store / "main"
        create_repository(place, REPOSITORY_ID, {"first": public_slot(REPOSITORY_ID)})
        _fill(place, Path(name) / "cache", count)
        open_s = _median(lambda: _list(place, Path(name) / "cache"))
        print(f"open and list {count:,} points: {open_s:.2f} s ", end="")
        print(f"(wanted: less than {LIMIT_S:.0f} s)")
        began = time.monotonic()
        house.holdfast("repository", "add", "main", "--agent", "local", "--path", place)
        add_s = time.monotonic() - began
        print(f"`holdfast repository add`, which checks each MAC and takes all in: {add_s:.2f} s")
        list_s = _median(lambda: house.holdfast("point", "list"))
        print(f"`holdfast point list` of all, whole command: {list_s:.2f} s")
    results.write("points", {"points": count, "open_and_list_s": open_s, "add_s": add_s, "list_s": list_s})


def _fill(place: Path, cache: Path, count: int) -> None:
    keys = RepositoryKeys.derive(PUBLIC, REPOSITORY_ID)
    repository = Repository.open(place, cache)
    for number in range(count):
        sid = new_sid()
        lock = repository.begin_session(sid)
        disk = DiskPoint("disk", "disk", 1 << 30, 20, HOLE.hex(), ChangeMode.FULL, "a benchmark")
        vm = f"vm-{number % 500}"
        created = 1_700_000_000.0 + number
        point = Point(sid, REPOSITORY_ID, created, "job", "server", vm, vm, (disk,), pack_set_digest(()))
        repository.commit(seal_point(point, keys), [])
        lock.close()
    repository.close()


def _list(place: Path, cache: Path) -> None:
    repository = Repository.open(place, cache)
    assert len(list(repository.points())) > 0
    repository.close()


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
