"""Retention through the command line and a real agent: prune, undo, protect, immutability, statistics, rescan."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab.contents import assert_same
from lab.installation import Installation, installed

MIB = 1 << 20
DAY_S = 86400.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An agent and a manager with the encrypted repository `main`."""
    with installed(tmp_path_factory.mktemp("house"), snapshot="in-place") as made:
        made.add_repository("main", encrypted=True)
        yield made


@pytest.fixture(scope="module")
def history(house: Installation) -> tuple[str, list[str]]:
    """A VM with a job of its name that keeps one point only, and its three points, oldest first.

    Every test leaves all three behind.
    """
    house.add_job("web", "--retry-pause", "0.2 s", repository="main", include="web")
    sids = back_up(house, "web", 3)
    assert shown(house, "web") == sids, "a week is kept by default"
    keep(house, "web", 1)
    return "web", sids


def disk_at(vm: str, change: int) -> bytes:
    """Three blocks that stay, one that is new with each ``change``, and holes."""
    return random.Random(vm).randbytes(3 * MIB) + random.Random(f"{vm} {change}").randbytes(MIB) + bytes(4 * MIB)


def back_up_once(house: Installation, vm: str, change: int) -> dict[str, Any]:
    (house.vms / vm).mkdir(exist_ok=True)
    (house.vms / vm / "disk.img").write_bytes(disk_at(vm, change))
    return house.run_job(vm)


def back_up(house: Installation, vm: str, times: int) -> list[str]:
    """Sids, oldest first; the disk changes before each."""
    sids = []
    for change in range(times):
        back_up_once(house, vm, change)
        sids.append(house.points(vm)[0]["sid"])
    return sids


def last_note(house: Installation) -> str:
    with contextlib.closing(sqlite3.connect(house.home / "manager" / "catalog.db")) as database:
        query = "SELECT data FROM events WHERE kind = 'Note' ORDER BY id DESC LIMIT 1"
        return str(database.execute(query).fetchone()[0])


def keep(house: Installation, vm: str, count: int, *more: str) -> None:
    house.holdfast(
        "job", "edit", vm, "--keep-days", "0", "--keep-count", str(count), "--keep-minimum", "1", *more
    )  # fmt: skip


def shown(house: Installation, vm: str) -> list[str]:
    return [point["sid"] for point in reversed(house.points(vm))]


def pruned(house: Installation, vm: str) -> list[str]:
    listed = house.holdfast("point", "list", "--vm", vm, "--pruned")["points"]
    return [point["sid"] for point in reversed(listed)]


def catalog(house: Installation) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(house.home / "manager" / "catalog.db")) as database:
        return database.execute("SELECT * FROM points ORDER BY sid").fetchall()


def files(house: Installation) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (house.store / "main").rglob("*") if path.is_file()}


def test_prune_takes_what_no_rule_keeps_and_undo_gives_it_back(
    house: Installation, history: tuple[str, list[str]]
) -> None:
    vm, sids = history
    before = catalog(house), files(house)
    dry = house.holdfast("prune", "--job", vm, "--dry-run")
    assert (dry["to_prune"], dry["pruned"]) == (2, [])
    assert [decision["keep"] for decision in dry["vms"][0]["decisions"]] == [False, False, True]
    assert (catalog(house), files(house)) == before, "a dry run changes nothing"
    done = house.holdfast("prune", "--vm", vm)
    assert done["pruned"] == sids[:2]
    assert 3 * DAY_S - 60 < done["undo_until"] - time.time() < 3 * DAY_S + 60
    assert (shown(house, vm), pruned(house, vm)) == (sids[2:], sids[:2])
    assert house.holdfast("prune", "--job", vm)["pruned"] == []
    house.holdfast("restore", "disk", "--point", sids[0], "--to", house.out / "no.raw", expect=10)
    house.holdfast("point", "undo-prune", sids[0][:8])
    house.holdfast("point", "undo-prune", sids[1], "--repository", "main")
    assert (shown(house, vm), pruned(house, vm)) == (sids, [])
    house.holdfast("restore", "disk", "--point", sids[0], "--to", house.out / f"{vm}.raw")
    assert_same((house.out / f"{vm}.raw").read_bytes(), disk_at(vm, 0))
    dry = house.holdfast("prune", "--job", vm, "--dry-run")
    reasons = [decision["reasons"] for decision in dry["vms"][0]["decisions"]]
    assert reasons == [["last verified"], ["no rule keeps it"], ["minimum", "count"]], "the restore has verified it"


def test_a_session_prunes_at_its_end_and_a_failed_one_does_not(house: Installation) -> None:
    house.add_job("db", "--retries", "0", repository="main", include="db")
    keep(house, "db", 1)
    sids = back_up(house, "db", 2)
    assert (shown(house, "db"), pruned(house, "db")) == (sids[1:], sids[:1])
    assert f"retention: 1 restore point pruned ({sids[0][:12]}), 1 kept" in last_note(house)
    house.holdfast("point", "undo-prune", sids[0])
    (house.vms / "db" / "disk.img").rename(house.vms / "db" / "gone")
    house.run_job("db", expect=10)
    assert shown(house, "db") == sids


def test_a_backup_is_good_though_its_retention_could_not_be_applied(house: Installation) -> None:
    house.add_job("mail", repository="main", include="mail")
    tombstones = house.store / "main" / "tombstones"
    tombstones.rename(tombstones.with_name("elsewhere"))
    try:
        report = back_up_once(house, "mail", 0)
    finally:
        tombstones.with_name("elsewhere").rename(tombstones)
    assert report["result"] == "success"
    assert "retention could not be applied" in last_note(house)
    assert len(shown(house, "mail")) == 1


def test_protection_is_the_repositorys_and_a_date_is_never_brought_forward(
    house: Installation, history: tuple[str, list[str]]
) -> None:
    vm, sids = history

    def doomed() -> list[str]:
        judged = house.holdfast("prune", "--job", vm, "--dry-run")["vms"]
        return [decision["sid"] for each in judged for decision in each["decisions"] if not decision["keep"]]

    assert sids[1] in doomed()
    assert house.holdfast("protect", sids[1])["retained"]["hold"] is True
    until = house.holdfast("protect", sids[1], "--until", "2099-12-31")["retained"]["until"]
    assert until == 4102444800.0, "to the end of the day"
    assert sids[1] not in doomed()
    assert house.holdfast("point", "show", sids[1])["point"]["held"] is True
    house.holdfast("unprotect", sids[1])
    with contextlib.closing(sqlite3.connect(house.home / "manager" / "catalog.db")) as database, database:
        database.execute("UPDATE points SET retained_until = 0")
    assert sids[1] not in doomed(), "the repository is asked, not the catalogue"
    assert house.holdfast("protect", sids[1], "--until", "2098-01-01")["retained"]["until"] == until
    for bad in ("soon", "2027-13-01", "9999-01-01"):
        house.holdfast("protect", sids[1], "--until", bad, expect=2)


def test_statistics_tell_what_is_stored(house: Installation, history: tuple[str, list[str]]) -> None:
    vm, sids = history
    found = house.holdfast("repository", "stats", "main", "--point", sids[0], "--point", sids[2])
    (own,) = [each for each in found["vms"] if each["vm_name"] == vm]
    assert own["points"] == 3
    sizes = own["sizes"]
    assert sizes["logical_bytes"] == 3 * 8 * MIB
    assert sizes["used_bytes"] == 3 * 4 * MIB
    assert sizes["unique_bytes"] == (3 + 3) * MIB
    assert sizes["dedup_ratio"] == 2.0
    assert sizes["freed_bytes"] == sizes["stored_bytes"] + sizes["metadata_bytes"], "nobody else has its blocks"
    points = {each["sid"]: each["sizes"] for each in found["points"]}
    assert set(points) == {sids[0], sids[2]}
    assert points[sids[0]]["unique_bytes"] == 4 * MIB, "the oldest brought them all"
    assert points[sids[2]]["unique_bytes"] == MIB
    assert MIB < points[sids[0]]["freed_bytes"] < 2 * MIB, "its one block, a node and its configuration"
    total = found["total"]
    assert total["stored_bytes"] + total["metadata_bytes"] <= found["packs_bytes"]


def test_a_lost_catalogue_loses_no_point(house: Installation, history: tuple[str, list[str]]) -> None:
    vm, sids = history
    house.holdfast("protect", sids[0])
    known = {point["sid"]: point for point in house.holdfast("point", "list", "--limit", "1000")["points"]}
    manager, lost = house.home / "manager", house.home / "lost"
    lost.mkdir()
    for name in ("catalog.db", "catalog.key"):
        (manager / name).rename(lost / name)
    try:
        house.holdfast("init")
        key = json.loads(house.agent_command("show", "--output", "json"))["public_key"]
        house.holdfast("agent", "add", "local", f"127.0.0.1:{house.port}", key)
        place = ("--agent", "local", "--path", house.store / "main", "--passphrase-file", house.home / "main.pass")
        assert house.holdfast("repository", "add", "main", *place)["points"] == len(known)
        found = {point["sid"]: point for point in house.holdfast("point", "list", "--limit", "1000")["points"]}
        for sid, point in known.items():
            for field in ("server", "job", "vm_id", "vm_name", "created", "size_bytes", "held", "retained_until"):
                assert found[sid][field] == point[field], field
        house.holdfast("restore", "disk", "--point", sids[2], "--to", house.out / "found.raw")
        assert_same((house.out / "found.raw").read_bytes(), disk_at(vm, 2))
        assert house.holdfast("prune")["to_prune"] == 0, "without the jobs nothing is pruned"
        assert house.holdfast("repository", "rescan", "main")["points"] == len(known)
    finally:
        for name in ("catalog.db", "catalog.key"):
            (lost / name).replace(manager / name)
        house.holdfast("unprotect", sids[0])


def test_the_calendar_of_a_job(house: Installation, history: tuple[str, list[str]]) -> None:
    vm, _ = history
    house.holdfast("job", "edit", vm, "--keep-weekly", "2", "--retention-zone", "Europe/Berlin")
    found = house.holdfast("retention", "simulate", "--job", vm, "--start", "2026-01-01", "--for", "30")
    house.holdfast("job", "edit", vm, "--keep-weekly", "0", "--retention-zone", "UTC")
    assert (found["policy"]["weekly"], found["policy"]["time_zone"]) == (2, "Europe/Berlin")
    assert len(found["simulation"]["kept"]) + len(found["simulation"]["pruned"]) == 30
    house.holdfast("retention", "simulate", "--failed", "2026-01-05..2026-01-01", expect=2)
    house.holdfast("retention", "simulate", "--retention-zone", "Nowhere", expect=2)
