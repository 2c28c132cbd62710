"""A session that dies at any command to QEMU leaves a guest that runs, and nothing that the next does not remove."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed, SnapshotNotRemoved
from holdfast_plugins.hypervisors.qemu import Fleecing
from holdfast_plugins.hypervisors.qemu.monitor import Monitor
from lab.devices import small_file_system
from lab.qemu_backups import Backups
from lab.qemu_vms import MIB, QemuVm


class SuddenDeath(BaseException):
    """Stands for kill -9 of the process."""


class Fate:
    """Lets a process send so many commands and no more, whatever it then tries to clean up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        real = Monitor.run

        def run(monitor: Monitor, command: str, arguments: Any = None, descriptor: int | None = None) -> Any:
            if self.left is not None:
                if self.left == 0:
                    raise SuddenDeath
                self.left -= 1
            return real(monitor, command, arguments, descriptor)

        monkeypatch.setattr(Monitor, "run", run)


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Fate:
    return Fate(monkeypatch)


@pytest.fixture
def vm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[QemuVm]:
    """Old data is copied by a filter, or by a job where a test asks for it."""
    disks = {"root": ("qcow2", MIB), "data": ("raw", MIB)}
    with QemuVm(tmp_path, disks, fleecing=getattr(request, "param", Fleecing.FILTER)) as running:
        yield running


both = pytest.mark.parametrize("vm", list(Fleecing)[1:], indirect=True)


def fulfil(backups: Backups) -> None:
    """What the next session does first, twice, because it may die as well."""
    for _ in range(2):
        for obligation in reversed(backups.journal.open.values()):
            backups.another_driver().fulfil(obligation.kind, obligation.data)
    backups.journal.open.clear()


@both
def test_death_at_a_third_of_the_commands(vm: QemuVm, fate: Fate) -> None:
    die_at_commands(vm, fate, itertools.count(0, 3))


@both
@pytest.mark.soak
@pytest.mark.parametrize("committed", [True, False])
def test_death_at_every_command(vm: QemuVm, fate: Fate, committed: bool) -> None:
    die_at_commands(vm, fate, itertools.count(), committed)


def die_at_commands(vm: QemuVm, fate: Fate, numbers: Iterator[int], committed: bool | None = None) -> None:
    chance, backups, clean = Random(3), Backups(vm), vm.traces()
    backups.back_up()
    for survived in numbers:
        vm.scribble(chance, 3)
        fate.left = survived
        try:
            backups.remove(backups.snapshot(), survived % 2 == 0 if committed is None else committed)
        except SuddenDeath:
            fate.left = None
        else:
            break
        vm.scribble(chance, 3)
        fulfil(backups)
        assert vm.traces() == clean, f"something is left after death at command {survived}"
        if survived % 9 == 0:
            backups.back_up()
    fate.left = None
    assert survived > 30, "a snapshot of two disks takes more commands than that"
    backups.back_up()
    backups.back_up()
    assert len(vm.bitmaps("root")) == len(vm.bitmaps("data")) == 1, "bitmaps of points that were never made are gone"


def test_death_in_the_midst_of_a_check(vm: QemuVm, fate: Fate) -> None:
    backups, clean = Backups(vm), vm.traces()
    for survived in itertools.count(0, 3):
        snapshot = backups.snapshot()
        fate.left = survived
        try:
            backups.driver.check_snapshot(snapshot)
        except SuddenDeath:
            pass
        else:
            break
        finally:
            fate.left = None
        fulfil(backups)
        assert vm.traces() == clean, f"something is left after death at command {survived}"
    backups.remove(snapshot)
    assert vm.traces() == clean


def test_a_full_scratch_breaks_the_backup_and_not_the_guest(vm: QemuVm, tmp_path: Path) -> None:
    with small_file_system(tmp_path, size_bytes=16 * MIB) as small:
        vm.scratch = small
        backups, clean = Backups(vm), vm.traces()
        backups.back_up()
        snapshot = backups.snapshot()
        with (small / "filler").open("wb") as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()
        vm.io("root", f"write -P 5 0 {MIB}", f"write -P 6 0 {MIB}")
        assert vm.content("root") == bytes([6]) * MIB, "the guest goes on"
        with pytest.raises(SnapshotFailed, match="old data could not be put into"):
            backups.driver.check_snapshot(snapshot)
        backups.remove(snapshot, committed=False)
        (small / "filler").unlink()
        assert vm.traces() == clean
        assert backups.back_up() == {"root": "", "data": ""}, "and no change is forgotten"


@pytest.mark.parametrize("vm", [Fleecing.JOB], indirect=True)
def test_a_job_begins_only_with_room_for_all_of_the_disk(vm: QemuVm, tmp_path: Path) -> None:
    """For it is the guest's own write that fails where a job cannot copy."""
    with small_file_system(tmp_path, size_bytes=32 * MIB) as small:
        vm.scratch = small
        backups, clean = Backups(vm), vm.traces()
        snapshot = backups.snapshot()
        with (small / "filler").open("wb") as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()
        vm.io("root", f"write -s /dev/urandom 0 {MIB}", f"write -P 6 0 {MIB}")
        backups.driver.check_snapshot(snapshot)
        backups.remove(snapshot)
        with pytest.raises(SnapshotFailed, match="to reserve: No space left"):
            backups.snapshot()
        assert vm.traces() == (*clean[:-1], clean[-1] | {"filler"}) and not backups.journal.open
        (small / "filler").unlink()


@pytest.mark.parametrize("vm", [Fleecing.JOB], indirect=True)
def test_a_job_that_somebody_ends_breaks_the_backup(vm: QemuVm) -> None:
    backups, clean = Backups(vm), vm.traces()
    snapshot = backups.snapshot()
    name = vm.lab.run("query-block-jobs")[0]["device"]
    vm.lab.run("block-job-cancel", device=name, force=True)
    while name in {job["device"] for job in vm.lab.run("query-block-jobs")}:
        pass
    with pytest.raises(SnapshotFailed, match=f"the job {name} has ended"):
        backups.driver.check_snapshot(snapshot)
    backups.remove(snapshot, committed=False)
    assert vm.traces() == clean


def test_a_vm_with_threads_that_a_reader_could_end_is_refused(tmp_path: Path) -> None:
    with QemuVm(tmp_path, {"root": ("raw", MIB)}, io_thread=True) as vm:
        backups, clean = Backups(vm), vm.traces()
        told = vm.lab.run("query-version")["qemu"]["major"]
        if told >= 9:
            backups.back_up()
            return
        with pytest.raises(DiskUnsupported, match="has I/O threads"):
            backups.snapshot()
        assert vm.traces() == clean and not backups.journal.open


def test_a_server_of_the_operators_own_is_left_alone(vm: QemuVm) -> None:
    address = {"type": "unix", "data": {"path": str(vm.folder / "own.sock")}}
    vm.lab.run("nbd-server-start", addr=address)
    backups, clean = Backups(vm), vm.traces()
    with pytest.raises(SnapshotFailed, match="NBD server already running"):
        backups.snapshot()
    assert vm.traces() == clean and not backups.journal.open
    vm.lab.run("block-export-add", type="nbd", id="own", **{"node-name": "data"}, name="own")
    with pytest.raises(SnapshotFailed, match="NBD server already running"):
        backups.snapshot()
    vm.lab.run("block-export-del", id="own", mode="hard")
    vm.lab.run("nbd-server-stop")
    backups.back_up()


def test_a_second_backup_of_a_vm_is_refused_while_one_runs(vm: QemuVm) -> None:
    one, other = Backups(vm, "one"), Backups(vm, "other")
    snapshot = one.snapshot()
    with pytest.raises(SnapshotFailed, match="another backup of it is running"):
        other.snapshot()
    assert not other.journal.open
    one.remove(snapshot)
    other.back_up()


def test_an_old_promise_deletes_nothing_that_is_not_ours(vm: QemuVm) -> None:
    backups = Backups(vm)
    backups.snapshot()
    ((number, obligation),) = backups.journal.open.items()
    theirs = vm.scratch / "precious.nbd"
    theirs.touch()
    for old, new in (
        ("holdfast-", "precious-"),
        ('"token":"', '"token":"../../'),
        ('{"tracking"', "["),
        ("device", "d"),
    ):
        damaged = {**obligation.data, "frozen": obligation.data["frozen"].replace(old, new)}
        try:
            backups.another_driver().fulfil(obligation.kind, damaged)
        except SnapshotNotRemoved as error:
            assert error.retryable
        assert theirs.exists()
    fulfil(backups)
    assert number and not list(vm.scratch.glob("holdfast-*"))
