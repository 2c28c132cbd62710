"""A session that dies between its commit and the catalogue's row loses nothing: the next one remembers its point."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from holdfast_agent.errors import ErrorRecord
from holdfast_manager.catalog.errors import SessionDied
from lab.contents import assert_same
from lab.installation import Installation, installed

MIB = 1 << 20


def undo_the_end_of_session(house: Installation, number: int, sid: str) -> None:
    """Bring the catalogue to where a kill -9 right after the commit leaves it, once the next reader has reaped it."""
    died: ErrorRecord = SessionDied(process="killed").to_record()
    error = {name: getattr(died, name) for name in ErrorRecord.__struct_fields__}
    with sqlite3.connect(house.home / "manager" / "catalog.db") as database:
        assert database.execute("DELETE FROM points WHERE sid = ?", (sid,)).rowcount == 1
        change = "UPDATE sessions SET result = 'failed', error = ? WHERE id = ?"
        assert database.execute(change, (json.dumps(error), number)).rowcount == 1
    database.close()


def test_a_point_that_its_session_could_not_remember_is_remembered_by_the_next(tmp_path: Path) -> None:
    with installed(tmp_path) as house:
        disk = house.vms / "vm" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(b"1" * (2 * MIB))
        house.add_repository("main", encrypted=True)
        house.add_job("main", repository="main", include="vm")
        first = house.run_job("main")
        (point,) = house.points("vm")
        undo_the_end_of_session(house, first["id"], point["sid"])
        assert house.points("vm") == []

        second = house.run_job("main")

        assert point["sid"] in {each["sid"] for each in house.points("vm")}
        (task,) = second["disks"]
        assert task["mode"] == "digest", "and it is the base that the next backup compares with"
        house.restore_disk("vm", point["sid"], house.out / "restored.raw")
        assert_same((house.out / "restored.raw").read_bytes(), disk.read_bytes())
