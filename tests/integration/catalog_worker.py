"""A process of its own that works on the catalogue; run by the tests, told what to do by its arguments.

Says "ready", waits for a line on standard input (so that several begin at once), does its part, says what came out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from holdfast_agent.errors import Locked
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import EventEntry, SessionKind, SessionResult
from holdfast_manager.scheduler.slots import SlotLedger
from holdfast_manager.settings import DatabaseSettings, ManagerSettings

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a program, it does not have what pytest adds

from lab.slots import wish


def settings_of(home: str) -> ManagerSettings:
    return ManagerSettings(data_dir=home, database=DatabaseSettings(os.environ.get("CATALOG_URL", "")))


def open_and_close(home: str) -> None:
    with Catalog.open(settings_of(home)) as catalog:
        say(str(len(catalog.jobs.list())))


def begin_job(home: str) -> None:
    with Catalog.open(settings_of(home)) as catalog:
        try:
            say(f"won {catalog.sessions.begin_job('web').id}")
        except Locked:
            say("locked")
        sys.stdin.readline()  # stay alive until all have tried: a dead holder does not lock


def write_events(home: str, batches: str) -> None:
    with Catalog.open(settings_of(home)) as catalog:
        session = catalog.sessions.begin(SessionKind.VERIFY, {}).id
        for batch in range(int(batches)):
            catalog.events.append([EventEntry(session=session, time=0.0, kind=f"{batch} {n}") for n in range(5)])
        say(str(session))


def hold(home: str) -> None:
    """Adopt a session, owe something, take slots for task 1, and wait to be killed."""
    with Catalog.open(settings_of(home)) as catalog:
        session = catalog.sessions.adopt(catalog.sessions.begin_job("web").id)
        catalog.obligations.write(session.id, "lab", "images", "snapshot", {"id": "s1"})
        ledger = SlotLedger(catalog)
        ledger.request(session.id, 1, wish("a"))
        (grant,) = ledger.poll(session.id).grants
        say(f"{session.id} {grant.proxy}")
        sys.stdin.readline()


def run_tasks(home: str, marks: str, tasks: str) -> None:
    """Run tasks as a session does; while one holds slots, a mark in a directory per resource proves it to others."""
    with Catalog.open(settings_of(home)) as catalog:
        session = catalog.sessions.begin(SessionKind.RESTORE, {}).id
        ledger = SlotLedger(catalog)
        waiting = set(range(int(tasks)))
        for task in waiting:
            ledger.request(session, task, wish("a", "b"))
        highest: dict[str, int] = {}
        while waiting:
            for grant in ledger.poll(session).grants:
                places = [Path(marks) / f"proxy-{grant.proxy}", Path(marks) / f"repository-{grant.repository}"]
                for place in places:
                    (place / f"{session}-{grant.task}").touch()
                for place in places:
                    highest[place.name] = max(highest.get(place.name, 0), len(list(place.iterdir())))
                for place in places:
                    (place / f"{session}-{grant.task}").unlink()
                ledger.release(session, grant.task)
                waiting.discard(grant.task)
        catalog.sessions.end(session, SessionResult.SUCCESS)
        say(" ".join(f"{name}={count}" for name, count in sorted(highest.items())))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


PARTS = {part.__name__: part for part in (open_and_close, begin_job, write_events, hold, run_tasks)}

if __name__ == "__main__":
    say("ready")
    sys.stdin.readline()
    PARTS[sys.argv[1]](*sys.argv[2:])
