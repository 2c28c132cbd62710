"""What a session costs that the service's schedule starts: forked from what is loaded already, and as a program.

The work is next to nothing: a VM of one disk of 4 MiB that has not changed, an encrypted repository, one host. The job
is due each second; services of both kinds run it in turns. Processor time is what the session's process has used when
it ends, and of service and template together what they used meanwhile for each session.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from holdfast_manager.catalog.values import SessionEntry
from lab.installation import Installation, installed
from lab.processes import children
from lab.services import catalogue, done, nursery, quiet, service, sessions

WORK = Path("bench-work")
TELLS = """\
import os, time
_exit = os._exit

def _told(status):
    with open(f"{os.environ['HOLDFAST_SPENT']}/{os.getpid()}", "w") as spent:
        spent.write(str(time.process_time()))
    _exit(status)

os._exit = _told
"""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Found:
    """Of each session, in seconds: from due to running, from due to its first block, and processor time."""

    began: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(found) for name, found in vars(self).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=8, help="of each service")
    arguments = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scheduled-", dir=WORK) as name, _house(Path(name).resolve()) as house:
        forked, program = Found(), Found()
        for turn in range(arguments.rounds):
            for found in (forked, program) if turn % 2 else (program, forked):
                _measure(house, arguments.sessions, found, alone=found is program)
    _tell(forked.medians(), program.medians(), arguments.rounds * arguments.sessions)
    return 0


@contextlib.contextmanager
def _house(place: Path) -> Iterator[Installation]:
    (place / "tells").mkdir()
    (place / "spent").mkdir()
    (place / "tells" / "sitecustomize.py").write_text(TELLS)
    with installed(place / "home", snapshot="in-place") as house:
        (house.vms / "vm").mkdir()
        (house.vms / "vm" / "disk.raw").write_bytes(secrets.token_bytes(4 << 20))
        house.add_repository("main", encrypted=True)
        house.add_job("small", "--schedule", "calendar *:*:*", repository="main", include="vm")
        house.run_job("small")
        house.holdfast("job", "disable", "small")
        house.environment["PYTHONPATH"] += f":{place / 'tells'}"
        house.environment["HOLDFAST_SPENT"] = str(place / "spent")
        yield house


def _measure(house: Installation, count: int, found: Found, alone: bool) -> None:
    """Have one service run so many sessions; the first, beside which it or the template starts, is left out."""
    house.environment["HOLDFAST_NURSERY"] = "off" if alone else "on"
    with catalogue(house) as catalog, service(house) as running:
        others = [running.process.pid] if alone else [running.process.pid, nursery(house, running)]
        before = len(sessions(catalog, "small"))
        house.holdfast("job", "enable", "small")
        done(catalog, "small", before + 1)
        used = _used_s(others)
        done(catalog, "small", before + 1 + count)
        used = _used_s(others) - used
        quiet(house, catalog, "small")
        measured = sessions(catalog, "small")[before + 1 :][:count]
        assert alone or len(children(others[0])) == 1
    for session in measured:
        _add(house, session, found)
    found.beside.append(used / count)


def _add(house: Installation, session: SessionEntry, found: Found) -> None:
    steps = house.holdfast("session", "show", session.id)["steps"]
    due = int(session.created)
    assert session.started is not None
    assert session.process is not None
    found.began.append(session.started - due)
    found.moved.append(next(step["began"] for step in steps if step["step"] == "transfer") - due)
    spent = Path(house.environment["HOLDFAST_SPENT"]) / str(session.process.pid)
    found.spent.append(float(spent.read_text()))


def _used_s(pids: Sequence[int]) -> float:
    """Processor time of these processes alone, without what they have started; proc(5), fields 14 and 15 of stat."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) * _TICK_S


def _tell(forked: dict[str, float], program: dict[str, float], count: int) -> None:
    names = {
        "began": "due until the session runs",
        "moved": "due until its first block",
        "spent": "processor time of the session",
        "beside": "processor time of service and template for each",
    }
    print(f"medians of {count} sessions each\n\n| | forked | as a program |\n|---|---|---|")
    for name, text in names.items():
        print(f"| {text} | {forked[name]:.3f} s | {program[name]:.3f} s |")
    results.write("scheduled", {"sessions": count, "forked_s": forked, "program_s": program})


if __name__ == "__main__":
    sys.exit(main())
