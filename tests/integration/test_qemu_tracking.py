"""Bitmaps of a QEMU that runs, restarts, is killed or changed: the right answer or none, and always a right point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import DiskDenied, DiskServerUntrusted
from holdfast_plugins.hypervisors.qemu import Fleecing
from holdfast_plugins.hypervisors.tracking_names import MOST_SERIES, new_tracking_name
from lab.certificates import make_certificates
from lab.chance import told_chance
from lab.disks import host_for
from lab.ports import free_port
from lab.qemu_backups import Backups, Told
from lab.qemu_vms import GRAIN, MIB, QemuVm

PATTERNS, MANY_PATTERNS = 25, 1000
NOT_LOST = {"root": "", "data": ""}


@pytest.fixture
def vm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[QemuVm]:
    """Old data is copied by a filter, or by a job where a test asks for it."""
    disks = {"root": ("qcow2", 3 * MIB + 512), "data": ("raw", MIB)}
    with QemuVm(tmp_path, disks, fleecing=getattr(request, "param", Fleecing.FILTER)) as running:
        yield running


@pytest.fixture
def chance() -> Random:
    return Random(11)


@pytest.mark.parametrize("vm", list(Fleecing)[1:], indirect=True)
def test_patterns_of_writes(vm: QemuVm, chance: Random) -> None:
    write_in_patterns(vm, chance, PATTERNS)


@pytest.mark.soak
@pytest.mark.parametrize("vm", list(Fleecing)[1:], indirect=True)
def test_thousands_of_patterns_of_writes(vm: QemuVm) -> None:
    write_in_patterns(vm, told_chance(), MANY_PATTERNS)


def write_in_patterns(vm: QemuVm, chance: Random, times: int) -> None:
    """Before, between and while snapshots are there; points that are made, and points that fail."""
    backups, clean = Backups(vm), vm.traces()
    for number in range(times):
        vm.scribble(chance, chance.choice([0, 1, 3, 12]))
        lost = backups.back_up(number % 5 != 3, meanwhile=lambda: vm.scribble(chance, chance.choice([0, 2, 8])))
        assert lost == NOT_LOST
    assert vm.traces() == clean and not backups.journal.open


def test_only_what_was_written_is_named(vm: QemuVm) -> None:
    backups = Backups(vm)
    backups.back_up()
    vm.io("root", f"write -P 3 {5 * GRAIN + 512} 512", f"write -P 3 {9 * GRAIN - 512} 1024")
    backups.back_up(committed=False)
    assert backups.named == {"root": 3 * GRAIN, "data": 0}
    backups.back_up()
    assert backups.named == {"root": 3 * GRAIN, "data": 0}, "a point that failed has cost nothing"
    backups.back_up()
    assert backups.named == {"root": 0, "data": 0}


@pytest.mark.parametrize("told", [Told.THE_OPPOSITE, Told.NOTHING], ids=lambda told: told.name.lower())
@pytest.mark.parametrize("exists", [True, False], ids=["exists", "does not"])
def test_what_is_believed_of_a_point_may_cost_a_comparison_and_misses_no_change(
    vm: QemuVm, chance: Random, told: Told, exists: bool
) -> None:
    """A point of which nobody heard is found later, and is a base like any other; one that was believed in is none."""
    backups = Backups(vm)
    vm.scribble(chance, 6)
    backups.back_up()
    vm.scribble(chance, 6)
    backups.back_up(exists, lambda: vm.scribble(chance, 6), told)
    vm.scribble(chance, 6)
    lost = backups.back_up(meanwhile=lambda: vm.scribble(chance, 6))
    if told is Told.NOTHING:
        assert lost == NOT_LOST, "either bitmap is there still"
    else:
        assert all("is gone" in reason for reason in lost.values())
    vm.scribble(chance, 6)
    assert backups.back_up() == NOT_LOST
    assert not backups.journal.open


def test_an_orderly_restart_keeps_qcow2_tracked(vm: QemuVm, chance: Random) -> None:
    backups = Backups(vm)
    vm.scribble(chance, 10)
    backups.back_up()
    vm.scribble(chance, 10)
    vm.stop()
    vm.start()
    vm.scribble(chance, 10)
    lost = backups.back_up()
    assert lost["root"] == "" and "not qcow2 keeps none" in lost["data"]
    assert backups.back_up() == NOT_LOST


def test_a_killed_qemu_costs_a_comparison_and_no_more(vm: QemuVm, chance: Random) -> None:
    backups = Backups(vm)
    backups.back_up()
    vm.kill()
    vm.start()
    assert "is gone: QEMU was killed" in backups.back_up()["root"]
    vm.stop()
    vm.start()  # now the bitmap is in the image, and marked as in use
    vm.scribble(chance, 10)
    vm.kill()
    vm.start()
    vm.scribble(chance, 10)
    assert "is inconsistent: QEMU was killed" in backups.back_up()["root"]
    vm.scribble(chance, 10)
    assert backups.back_up() == NOT_LOST
    assert len(vm.bitmaps("root")) == 1, "what cannot be used is not kept"


def test_a_killed_qemu_in_a_snapshot_leaves_nothing(vm: QemuVm, chance: Random) -> None:
    backups, clean = Backups(vm), vm.traces()
    backups.back_up()
    snapshot = backups.snapshot()
    vm.kill()
    backups.remove(snapshot, committed=False)
    assert not backups.journal.open and not list(vm.scratch.glob("holdfast-*"))
    vm.start()
    vm.scribble(chance, 10)
    assert "is gone" in backups.back_up()["root"]
    assert len(vm.traces()) == len(clean) and backups.back_up() == NOT_LOST


def test_a_disk_that_grew_is_tracked_from_then_on(vm: QemuVm, chance: Random) -> None:
    backups = Backups(vm)
    backups.back_up()
    vm.resize("root", 5 * MIB)
    vm.io("root", f"write -P 7 {4 * MIB} {MIB}")
    backups.back_up()
    vm.scribble(chance, 10)
    assert backups.back_up() == NOT_LOST
    assert backups.named["root"] > 0


def test_another_image_under_the_same_disk(vm: QemuVm, chance: Random) -> None:
    """Replaced by an empty one; and by a copy of before, whose bitmap is older than the base."""
    backups = Backups(vm)
    vm.scribble(chance, 10)
    backups.back_up()
    vm.stop()
    kept = vm.image("root").read_bytes()
    vm.start()
    vm.scribble(chance, 10)
    backups.back_up()
    vm.stop()
    vm.image("root").write_bytes(kept)
    vm.start()
    assert "is gone" in backups.back_up()["root"]
    vm.stop()
    vm.make_image("root", "qcow2", 3 * MIB + 512)
    vm.start()
    assert "is gone" in backups.back_up()["root"]
    assert backups.back_up() == NOT_LOST


def test_a_reverted_image_that_holds_its_bitmap_is_right_all_the_same(vm: QemuVm, chance: Random) -> None:
    """Data and bitmap are in one file, so a copy of both tells the truth about itself."""
    backups = Backups(vm)
    backups.back_up()
    vm.scribble(chance, 10)
    vm.stop()
    kept = vm.image("root").read_bytes()
    vm.start()
    vm.scribble(chance, 10)
    vm.stop()
    vm.image("root").write_bytes(kept)
    vm.start()
    assert backups.back_up()["root"] == ""
    assert backups.named["root"] > 0


def test_a_bitmap_that_somebody_disabled_is_not_believed(vm: QemuVm, chance: Random) -> None:
    backups = Backups(vm)
    backups.back_up()
    (name,) = vm.bitmaps("root")
    vm.lab.run("block-dirty-bitmap-disable", node="root", name=name)
    vm.scribble(chance, 10)
    lost = backups.back_up()
    assert lost["data"] == "" and "was disabled by somebody" in lost["root"]


def test_disks_come_over_tls_where_qemu_has_certificates(tmp_path: Path, chance: Random) -> None:
    pki, place = make_certificates(tmp_path / "pki"), f"localhost:{free_port()}"
    creds = f"tls-creds-x509,id=tls,endpoint=server,verify-peer=no,dir={pki.folder}"
    with QemuVm(tmp_path / "vm", {"root": ("qcow2", MIB), "data": ("raw", MIB)}, objects=(creds,)) as vm:
        backups = Backups(vm, ca=pki.ca, nbd=place, nbd_tls_creds="tls")
        clean = vm.traces()
        for _ in range(3):
            vm.scribble(chance, 10)
            assert backups.back_up() == NOT_LOST
        snapshot = backups.snapshot("root")
        (url,) = snapshot.disks[0].urls
        assert url.startswith(f"nbds://{place}?")
        with pytest.raises(DiskServerUntrusted):
            open_disk(url, host_for(tmp_path, f"nbds://{place}"))
        with pytest.raises(DiskDenied, match="wants TLS"):
            open_disk(url.replace("nbds:", "nbd:"), host_for(tmp_path, f"nbd://{place}"))
        backups.remove(snapshot)
        assert vm.traces() == clean


def test_bitmaps_of_others_are_left_alone(vm: QemuVm, chance: Random) -> None:
    vm.lab.run("block-dirty-bitmap-add", node="root", name="backup-0", persistent=True)
    vm.lab.run("block-dirty-bitmap-add", node="root", name="holdfast-of-somebody", disabled=True)
    backups = Backups(vm)
    for _ in range(3):
        vm.scribble(chance, 3)
        assert backups.back_up() == NOT_LOST
    assert {"backup-0", "holdfast-of-somebody"} < set(vm.bitmaps("root"))
    assert len(vm.bitmaps("root")) == 3


def test_two_repositories_do_not_take_each_others_tracking_away(vm: QemuVm, chance: Random) -> None:
    one, other = Backups(vm, "one"), Backups(vm, "other")
    for backups in (one, other, one, one, other, one, other, other):
        vm.scribble(chance, 5)
        assert backups.back_up() == NOT_LOST
    assert len(vm.bitmaps("root")) == 2


def test_series_that_came_to_an_end_are_not_tracked_for_good(vm: QemuVm) -> None:
    old = [str(new_tracking_name(f"repository {number}")) for number in range(2 * MOST_SERIES)]
    for name in old:
        vm.lab.run("block-dirty-bitmap-add", node="root", name=name, persistent=True)
    backups = Backups(vm)
    backups.back_up()
    assert len(vm.bitmaps("root")) == MOST_SERIES


def test_a_disk_that_comes_and_goes(vm: QemuVm, chance: Random) -> None:
    backups = Backups(vm)
    backups.back_up()
    vm.stop()
    kind_and_size = vm.disks.pop("data")
    vm.start()
    vm.scribble(chance, 5)
    assert backups.back_up() == {"root": ""}
    vm.stop()
    vm.disks["data"] = kind_and_size
    vm.start()
    vm.scribble(chance, 5)
    assert backups.back_up() == NOT_LOST
    vm.scribble(chance, 5)
    assert backups.back_up() == NOT_LOST
