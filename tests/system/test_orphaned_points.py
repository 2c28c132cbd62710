"""A session that dies between its commit and the catalogue's row, or never hears of its commit, loses nothing: the next
one remembers its point."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from holdfast_agent.errors import AgentAway, ErrorRecord
from holdfast_manager.catalog.errors import SessionDied
from lab.contents import assert_same
from lab.installation import Installation, installed

MIB = 1 << 20


DIED = SessionDied(process="killed").to_record()
"""By kill -9 right after the commit, and reaped by the next reader."""
AWAY = AgentAway(agent="local", waited_s=58).to_record()
"""The agent carried the commit out, and was gone for good before it answered."""


def undo_the_end_of_session(house: Installation, number: int, sid: str, end: ErrorRecord) -> None:
    """Bring the catalogue to where a session that ended so leaves it."""
    error = {name: getattr(end, name) for name in ErrorRecord.__struct_fields__}
    with sqlite3.connect(house.home / "manager" / "catalog.db") as database:
        assert database.execute("DELETE FROM points WHERE sid = ?", (sid,)).rowcount == 1
        change = "UPDATE sessions SET result = 'failed', error = ? WHERE id = ?"
        assert database.execute(change, (json.dumps(error), number)).rowcount == 1
        failed = "UPDATE events SET kind = 'VmFailed' WHERE kind = 'PointCommitted' AND step = 'commit' AND session = ?"
        assert database.execute(failed, (number,)).rowcount == 1
    database.close()


@pytest.mark.parametrize("end", [DIED, AWAY], ids=lambda end: str(end.code))
def test_a_point_that_its_session_could_not_remember_is_remembered_by_the_next(
    tmp_path: Path, end: ErrorRecord
) -> None:
    with installed(tmp_path) as house:
        disk = house.vms / "vm" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(b"1" * (2 * MIB))
        house.add_repository("main", encrypted=True)
        house.add_job("main", repository="main", include="vm")
        first = house.run_job("main")
        (point,) = house.points("vm")
        undo_the_end_of_session(house, first["id"], point["sid"], end)
        assert house.points("vm") == []

        second = house.run_job("main")

        assert point["sid"] in {each["sid"] for each in house.points("vm")}
        (task,) = second["disks"]
        assert task["mode"] == "digest", "and it is the base that the next backup compares with"
        house.restore_disk("vm", point["sid"], house.out / "restored.raw")
        assert_same((house.out / "restored.raw").read_bytes(), disk.read_bytes())
