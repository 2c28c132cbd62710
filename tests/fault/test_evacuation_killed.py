"""kill -9 of an evacuation, of its copies and of its verifications, before and after each of their acts.

At every moment each point is readable in a member at least; the next evacuation finishes, and leaves none twice. Two
members take turns: what one kill has moved, the next moves back. HOLDFAST_FIRST_ACT=17 leaves out as many of the acts.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_manager.catalog import Catalog
from lab.installation import COMMAND_TIMEOUT_S, Installation, installed
from lab.services import catalogue
from lab.waiting import wait_until

MIB = 1 << 20
BLOCKS = 3
VMS = ("db", "web")
DYING = Path(__file__).parents[1] / "lab" / "dying"
WORST = (
    "copy CommitPoint after 1",
    "evacuate RetainPoint after 1",
    "evacuate TombstonePoints after 1",
)
"""Where what the repositories have and what the catalogue knows is furthest apart."""
AFTER_THE_END = "evacuate end after"
"""Then the exit of the process is all that is left of it."""


class Estate:
    """The group `pool` of `left` and `right`, and what each point of theirs must hold."""

    def __init__(self, house: Installation, catalog: Catalog) -> None:
        self.house, self.catalog = house, catalog
        self.acts = house.home / "acts"
        self.full, self.empty = "left", "right"
        self.contents: dict[str, bytes] = {}
        for member in (self.full, self.empty):
            house.add_repository(member, encrypted=True)
        house.holdfast(
            "repository", "group", "create", "pool", "--member", "left", "--member", "right", "--free-floor", "1 MiB"
        )
        house.holdfast("repository", "seal", self.empty)
        for vm in VMS:
            (house.vms / vm).mkdir()
        house.add_job("all", "--include", VMS[0], repository="pool", include=VMS[1])
        self._back_up()
        self.held = next(iter(self.contents))
        house.holdfast("protect", self.held)

    def _back_up(self) -> None:
        disks = {vm: self.house.vms / vm / "disk.raw" for vm in VMS}
        for disk in disks.values():
            disk.write_bytes(random.randbytes(BLOCKS * MIB))
        for point in self.house.run_job("all")["points"]:
            self.contents[point["sid"]] = disks[point["vm"]].read_bytes()

    def evacuate(self, dies_at: str = "") -> list[str]:
        """Empty the full member, with a death on the way; what was done, act by act.

        An evacuation whose copies or verifications die, each of them at the same act, may yet come to its end.
        """
        self.house.holdfast("repository", "unseal", self.empty)
        self.acts.unlink(missing_ok=True)
        paths = f"{DYING}:{self.house.environment['PYTHONPATH']}"
        hooked = {"PYTHONPATH": paths, "HOLDFAST_ACTS": str(self.acts), "HOLDFAST_DIES_AT": dies_at}
        command = self.house.command("repository", "evacuate", self.full)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.house.environment | hooked,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        acts = self.acts.read_text().splitlines()
        if dies_at.startswith("evacuate "):
            assert done.returncode == 1, "it was not killed"
        elif not dies_at:
            assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        assert not dies_at or dies_at in acts, f"it was never come to {dies_at}: {acts}"
        return acts

    def finish(self) -> None:
        """What was killed is done by the next; then the members change their parts."""
        wait_until(lambda: not self.catalog.sessions.reap_dead() and not self.catalog.sessions.living(), "all to end")
        assert self.house.holdfast("repository", "evacuate", self.full)["result"] == "success"
        assert self.points(self.full) == []
        moved = self.points(self.empty)
        assert sorted(map(identity, moved)) == sorted(self.contents), "each once"
        assert [identity(point) for point in moved if point["held"]] == [self.held]
        assert all(point["verified"] for point in moved)
        self.full, self.empty = self.empty, self.full

    def points(self, name: str) -> list[dict[str, Any]]:
        """As the repositories themselves have them."""
        self.house.holdfast("repository", "rescan", name)
        listed: list[dict[str, Any]] = self.house.holdfast("point", "list", "--repository", name)["points"]
        return listed

    def check_readable(self) -> None:
        """Each point is in one of the two, and all that is in them is whole."""
        assert {identity(point) for point in self.points("pool")} == set(self.contents)
        self.house.holdfast("repository", "verify", "pool", "--level", "2")
        held = [identity(point) for point in self.points("pool") if point["held"]]
        assert self.held in held, "it is protected where it is"

    def check_contents(self) -> None:
        for point in self.points("pool"):
            to = self.house.out / f"{point['sid']}.raw"
            self.house.restore_disk(point["vm_name"], point["sid"], to)
            assert to.read_bytes() == self.contents[identity(point)]
            to.unlink()


def identity(point: dict[str, Any]) -> str:
    return str(point["origin"]["sid"] if point["origin"] else point["sid"])


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    with installed(tmp_path_factory.mktemp("house")) as house, catalogue(house) as catalog:
        yield Estate(house, catalog)


@pytest.mark.parametrize("act", WORST)
def test_an_evacuation_killed_at_its_worst_moments_loses_nothing(estate: Estate, act: str) -> None:
    _kill_and_finish(estate, act)


def test_every_point_holds_what_was_backed_up(estate: Estate) -> None:
    """After all that the tests above did to it."""
    estate.check_contents()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["evacuate", "copy", "verify"])
def test_each_kind_of_session_killed_at_each_of_its_acts_loses_nothing(estate: Estate, kind: str) -> None:
    acts = [act for act in estate.evacuate() if act.startswith(f"{kind} ") and not act.startswith(AFTER_THE_END)]
    estate.finish()
    assert len(acts) > 10
    for act in acts[int(os.environ.get("HOLDFAST_FIRST_ACT", "0")) :]:
        print(act)
        _kill_and_finish(estate, act)
    estate.check_contents()


def _kill_and_finish(estate: Estate, act: str) -> None:
    estate.evacuate(dies_at=act)
    estate.check_readable()
    estate.finish()
