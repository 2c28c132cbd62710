"""A round of the scheduler with ten thousand tasks that wait; the ledger, the service and lists at that scale.

Times are those of a processor, so that whatever else runs on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.tables import agents, jobs, sessions, slot_requests
from holdfast_manager.catalog.values import RepositoryEntry, ServerEntry, SessionKind, SessionResult
from holdfast_manager.scheduler.placement import Need, Request, in_order, place
from holdfast_manager.scheduler.slots import SlotLedger, Wish
from holdfast_manager.settings import HistorySettings, ManagerSettings
from lab.installation import BIN

PROXIES, REPOSITORIES, JOBS = 200, 20, 50
SPECS, SESSIONS = 1000, 100_000
IDLE_S = 30.0


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("one round of the core, with free slots and without (wanted: less than 100 ms at 10,000)")
    for count in (2500, 5000, 10_000, 20_000):
        with_slots, without = _rounds(count)
        print(f"  {count:>6,} tasks on {PROXIES} proxies: {with_slots * 1000:.0f} ms, {without * 1000:.0f} ms")
    with tempfile.TemporaryDirectory(prefix="holdfast-scheduler-") as name:
        home = Path(name) / "home"
        with Catalog.create(ManagerSettings(data_dir=str(home))) as catalog:
            _fill(catalog)
            print(f"a look of a session at the ledger, 10,000 tasks in it: {_ledger(catalog)}")
            _fill_history(catalog)
        listing = _median(lambda: _holdfast(home, "session", "list"))
        print(
            f"`holdfast session list`, {SESSIONS:,} sessions, the whole command: {listing:.2f} s (wanted: under 0.3 s)"
        )
        with Catalog.open(ManagerSettings(data_dir=str(home))) as catalog:
            print(f"  of it the query: {_median(catalog.sessions.list) * 1000:.1f} ms")
            print(f"history looked through for what may be forgotten, nothing found: {_nothing_old(catalog):.2f} s")
        print(f"service with {SPECS:,} jobs, idle: {_idle(home):.2f} % of a core (wanted: less than 1 %)")


def _rounds(count: int) -> tuple[float, float]:
    chance = random.Random(count)
    proxies = tuple(f"proxy p{number}" for number in range(PROXIES))
    repositories = {number: in_order(f"repository r{number}") for number in range(REPOSITORIES)}
    limits = {number: in_order(f"job j{number}") for number in range(JOBS)}
    ranks = {name: (name,) for name in proxies}
    capacities = dict.fromkeys(proxies, 4) | {f"repository r{number}": 40 for number in repositories}
    capacities |= {f"job j{number}": 50 for number in limits}

    def needs(number: int) -> tuple[Need, ...]:
        preferred = ranks[chance.choice(proxies)]
        return (preferred, proxies), repositories[chance.randrange(REPOSITORIES)], limits[number % JOBS]

    requests = [
        Request(number, needs(number), job=f"j{number % JOBS}", weight=(1, 3, 9)[number % JOBS % 3])
        for number in range(count)
    ]
    granted = place(capacities, [], requests)
    held = [name for grant in granted.grants for name in grant.resources]
    return _median(lambda: place(capacities, [], requests)), _median(lambda: place(capacities, held, requests))


def _fill(catalog: Catalog) -> None:
    catalog.servers.add(ServerEntry(name="lab", plugin="images", options={"path": "/nowhere"}))
    agent = {"public_key": "k" * 40, "roles": ["proxy", "repository"], "repository_slots": 1000, "enabled": True}
    rows = [{**agent, "name": f"p{n}", "endpoint": f"tcp://p{n}:1", "proxy_slots": 4} for n in range(PROXIES)]
    with catalog.database.writing() as connection:
        connection.execute(insert(agents), rows)
    for number in range(REPOSITORIES):
        entry = RepositoryEntry(name=f"r{number}", agent=f"p{number}", path="/r", repository_id="00", encrypted=False)
        catalog.repositories.add(entry)


def _ledger(catalog: Catalog) -> str:
    session = catalog.sessions.begin(SessionKind.VERIFY, {}).id
    ledger = SlotLedger(catalog, ttl_s=3600)
    ledger.request(session, 0, Wish(proxies=(("p1",), ("*",)), repository="r1", job="j1"))
    with catalog.database.writing() as connection:
        row = connection.execute(slot_requests.select()).one()._asdict()
        del row["id"]
        needs = row["needs"]
        many = [
            {**row, "task": n, "job": f"j{n % JOBS}", "needs": [needs[0], [[f"repository r{n % 20}"]], *needs[2:]]}
            for n in range(1, 10_000)
        ]
        connection.execute(insert(slot_requests), many)
    other = catalog.sessions.begin(SessionKind.VERIFY, {}).id
    began = _spent_s()
    ledger.poll(other)
    first = _spent_s() - began
    between = _median(lambda: ledger.poll(other))
    ledger.release_all(session)
    for number in (session, other):
        catalog.sessions.end(number, SessionResult.SUCCESS)
    return f"{first * 1000:.0f} ms with the first round, {between * 1000:.1f} ms between rounds"


def _fill_history(catalog: Catalog) -> None:
    plain_job = {"server": "lab", "include": ["*"], "repository": "r1"}
    hour = time.gmtime().tm_hour + 6  # nothing is due while it is measured
    rows = [
        {
            "name": f"j{n}",
            "server": "lab",
            "repository": "r1",
            "spec": {
                **plain_job,
                "name": f"j{n}",
                "schedule": {"start": [f"daily {(hour + n % 12) % 24:02}:{n % 60:02}"]},
            },
        }
        for n in range(SPECS)
    ]
    with catalog.database.writing() as connection:
        connection.execute(insert(jobs), rows)
        row = connection.execute(sessions.select()).first()
        plain = row._asdict() if row is not None else {}
        del plain["id"]
        many = [{**plain, "kind": "backup", "job": f"j{n % SPECS}"} for n in range(SESSIONS)]
        connection.execute(insert(sessions), many)


def _nothing_old(catalog: Catalog) -> float:
    limits = HistorySettings(sessions=2 * SESSIONS)
    return _median(lambda: list(catalog.history.prune(limits)))


def _idle(home: Path) -> float:
    """Per cent of a core that the service uses once it has settled."""
    with (home.parent / "service.log").open("w") as log:
        process = subprocess.Popen(
            [BIN / "holdfast", "service", "run"],
            env={**os.environ, "HOLDFAST_HOME": str(home)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        time.sleep(15)
        begin, before = time.monotonic(), _cpu_s(process.pid)
        time.sleep(IDLE_S)
        return 100 * (_cpu_s(process.pid) - before) / (time.monotonic() - begin)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _holdfast(home: Path, *arguments: str) -> object:
    command = [BIN / "holdfast", *arguments, "--output", "json"]
    done = subprocess.run(command, env={**os.environ, "HOLDFAST_HOME": str(home)}, capture_output=True, check=True)
    return json.loads(done.stdout)


def _median(action: Callable[[], object]) -> float:
    """CPU seconds, those of processes that the action runs among them."""
    times = []
    for _ in range(5):
        began = _spent_s()
        action()
        times.append(_spent_s() - began)
    return statistics.median(times)


def _spent_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
