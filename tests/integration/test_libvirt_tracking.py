"""What breaks libvirt's checkpoints costs a comparison, with its reason; then they are whole again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed
from holdfast_plugins.api import Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtSnapshotOptions, Method
from holdfast_plugins.testkit import MemoryJournal
from lab.chance import told_chance
from lab.libvirt_backups import DrivenBackups
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon

MIB = 1 << 20
FOREIGN = "somebody-elses"
BY_JOB = LibvirtSnapshotOptions(method=Method.BACKUP)


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as made:
        yield made


@pytest.fixture
def vm(host: LibvirtHost) -> Iterator[LibvirtVm]:
    yield host.vm("guest", {"vda": ("qcow2", MIB), "vdb": ("qcow2", MIB)}).start()
    host.clear()


@pytest.fixture
def backups(vm: LibvirtVm) -> Iterator[DrivenBackups]:
    made = DrivenBackups(vm)
    yield made
    made.close()


def ours(vm: LibvirtVm) -> list[str]:
    return [name for name in vm.checkpoints() if name != FOREIGN]


def qemu_killed(vm: LibvirtVm) -> None:
    vm.stop()
    vm.start()  # the bitmaps are loaded from the images, which makes them inconsistent now
    vm.kill()
    vm.start()


def forgotten(vm: LibvirtVm) -> None:
    """As after a migration, or when it was defined anew: the images keep their bitmaps."""
    for name in ours(vm):
        vm.domain.checkpointLookupByName(name).delete(2)  # metadata only


def one_bitmap_lost(vm: LibvirtVm) -> None:
    nodes = [node for node in vm.monitor("query-named-block-nodes", flat=True) if node["drv"] == "qcow2"]
    node = next(node for node in nodes if Path(node["image"]["filename"]) == vm.image("vda"))
    vm.monitor("block-dirty-bitmap-remove", node=node["node-name"], name=ours(vm)[0])


def grown(vm: LibvirtVm) -> None:
    vm.resize("vda", len(vm.content["vda"]) + MIB)


def image_put_back(vm: LibvirtVm) -> None:
    """An image without bitmaps in the place of the other, as a restore by hand leaves it."""
    vm.stop()
    for target, image in ((target, vm.image(target)) for target in vm.formats):
        vm.content[target][:] = vm.read_image(target)
        copy = image.with_suffix(".copy")
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", image, copy], check=True)
        copy.rename(image)
    vm.start()


def attached(vm: LibvirtVm) -> None:
    vm.attach("vdc", "qcow2", MIB)


BROKEN, UNKNOWN = "missing or broken bitmap", "libvirt knows no checkpoint"


@pytest.mark.parametrize(
    ("calamity", "reasons"),
    [
        (qemu_killed, {"vda": BROKEN, "vdb": BROKEN}),
        (forgotten, {"vda": UNKNOWN, "vdb": UNKNOWN}),
        (one_bitmap_lost, {"vda": BROKEN, "vdb": ""}),
        (grown, {"vda": "there is no base", "vdb": ""}),
        (image_put_back, {"vda": BROKEN, "vdb": BROKEN}),
        (attached, {"vda": "", "vdb": "", "vdc": "there is no base"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_tracking_that_broke_is_told_and_mended(
    vm: LibvirtVm, backups: DrivenBackups, calamity: Callable[[LibvirtVm], None], reasons: dict[str, str]
) -> None:
    chance = Random(3)
    vm.scribble(chance, 5)
    backups.run()
    calamity(vm)
    vm.domain.checkpointCreateXML(f"<domaincheckpoint><name>{FOREIGN}</name></domaincheckpoint>", 0)
    vm.scribble(chance, 5)
    told = backups.run()
    assert set(told) == set(reasons)
    for target, reason in reasons.items():
        assert reason in told[target] and bool(reason) == bool(told[target]), told
    vm.scribble(chance, 5)
    assert not any(backups.run().values()), "tracked again"
    assert len(ours(vm)) == 1 and FOREIGN in vm.checkpoints()
    bitmaps = vm.bitmaps()
    assert all(set(names) == {FOREIGN, *ours(vm)} for names in bitmaps.values()), bitmaps
    vm.stop()
    assert vm.bitmaps_in_images() == {FOREIGN, *ours(vm)}


def test_overlays_that_somebody_puts_over_the_disks_and_takes_away_again(vm: LibvirtVm, backups: DrivenBackups) -> None:
    """As snapshots by others do. Whatever a bitmap above or below then says, no change is passed over."""
    chance = Random(9)
    backups.run()
    for _ in range(2):
        vm.scribble(chance, 5)
        vm.put_overlays()
        for _ in range(2):
            vm.scribble(chance, 5)
            backups.run()
        vm.scribble(chance, 5)
        vm.commit_overlays()
        vm.scribble(chance, 5)
        backups.run()
    vm.scribble(chance, 5)
    assert not any(backups.run().values()), "tracked again"
    assert len(ours(vm)) == 1


def test_images_that_are_reverted_with_their_bitmaps(vm: LibvirtVm, backups: DrivenBackups) -> None:
    """As by snapshots of the storage below: to after the last point a bitmap is right, to before it there is none."""
    chance = Random(12)
    for backed_since in (False, True):
        vm.scribble(chance, 5)
        backups.run()
        vm.scribble(chance, 5)
        vm.stop()
        kept = {target: (vm.image(target).read_bytes(), bytes(content)) for target, content in vm.content.items()}
        vm.start()
        vm.scribble(chance, 5)
        if backed_since:
            backups.run()
        vm.stop()
        for target, (image, content) in kept.items():
            vm.image(target).write_bytes(image)
            vm.content[target][:] = content
        vm.start()
        vm.scribble(chance, 5)
        told = backups.run()
        assert all((BROKEN in reason) == bool(reason) == backed_since for reason in told.values()), told
        vm.scribble(chance, 5)
        assert not any(backups.run().values()), "tracked again"
        assert all(names == vm.checkpoints() for names in vm.bitmaps().values()), "the old bitmap is gone"


def test_random_patterns_of_writes_are_told_bit_for_bit(vm: LibvirtVm, backups: DrivenBackups) -> None:
    chance = Random(17)
    backups.run()
    for number in range(12):
        vm.scribble(chance, chance.choice([0, 1, 4]))
        if number == 6:
            vm.stop()
            vm.start()
        assert not any(backups.run(committed=number % 4 != 3).values())
        vm.scribble(chance, 1)


@pytest.mark.soak
def test_hundreds_of_random_patterns_are_told_bit_for_bit(vm: LibvirtVm, backups: DrivenBackups) -> None:
    chance = told_chance()
    backups.run()
    for _ in range(300):
        vm.scribble(chance, chance.randrange(20))
        if chance.random() < 0.05:
            vm.stop()
            vm.start()
        assert not any(backups.run(committed=chance.random() < 0.8).values())


def test_a_vm_that_is_shut_off_is_read_only_if_it_has_run_since(vm: LibvirtVm, backups: DrivenBackups) -> None:
    chance = Random(6)
    vm.scribble(chance, 5)
    backups.run()
    vm.scribble(chance, 5)
    vm.stop()
    assert all("the VM is off, and has run since" in reason for reason in backups.run().values())
    assert not any(backups.run().values()), "nothing has touched its images since"
    vm.start()
    vm.scribble(chance, 5)
    assert all("the VM was off at its last backup" in reason for reason in backups.run().values())
    assert not any(backups.run().values())


def test_two_repositories_do_not_take_each_others_tracking_away(vm: LibvirtVm, backups: DrivenBackups) -> None:
    chance, other = Random(4), DrivenBackups(vm, "other")
    backups.run()
    other.run()
    for _ in range(2):
        vm.scribble(chance, 3)
        assert not any(backups.run().values())
        vm.scribble(chance, 3)
        assert not any(other.run().values())
    assert len(ours(vm)) == 2
    other.close()


def test_raw_and_qcow2_disks_of_one_vm_are_of_one_instant_and_the_qcow2_is_tracked(host: LibvirtHost) -> None:
    vm = host.vm("mixed", {"vda": ("raw", MIB), "vdb": ("qcow2", MIB)}).start()
    backups = DrivenBackups(vm)
    vm.scribble(Random(2), 5)
    backups.run()
    vm.scribble(Random(3), 5)
    assert backups.run() == {"vda": "there is no base", "vdb": ""}
    backups.close()
    host.clear()


def test_an_image_that_is_written_to_behind_its_locks_makes_no_point(
    vm: LibvirtVm, backups: DrivenBackups, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm.stop()
    with pytest.raises(subprocess.CalledProcessError, match="qemu-io"):
        touch(vm, backups, monkeypatch, ["qemu-io", "-f", "qcow2", "-c", "write 0 512", str(vm.image("vda"))])
    with pytest.raises(SnapshotFailed, match="somebody wrote to vda"):
        touch(vm, backups, monkeypatch, ["truncate", "--size=+512", str(vm.image("vda"))])


def touch(vm: LibvirtVm, backups: DrivenBackups, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Run a command in the middle of a backup of a VM that is shut off."""
    check = backups.driver.check_snapshot

    def touched(snapshot: Snapshot) -> None:
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        check(snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(backups.driver, "check_snapshot", touched)
        backups.run()


def test_a_job_of_somebody_else_is_left_alone_and_told_at_once(vm: LibvirtVm, backups: DrivenBackups) -> None:
    server = f"<server transport='unix' socket='{vm.host.scratch}/other.sock'/>"
    disk = f"<disk name='vda' type='file'><scratch file='{vm.host.scratch}/other'/></disk>"
    xml = f"<domainbackup mode='pull'>{server}<disks>{disk}</disks></domainbackup>"
    vm.domain.backupBegin(xml, None, 0)
    with pytest.raises(SnapshotFailed, match="another backup of it is running"):
        backups.run()
    assert "other.sock" in vm.domain.backupGetXMLDesc(0)


def test_a_job_that_somebody_ends_makes_no_point(
    vm: LibvirtVm, backups: DrivenBackups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of the job and that of its server a reader would see what the guest writes now."""
    check = backups.driver.check_snapshot

    def ended(snapshot: Snapshot) -> None:
        vm.domain.abortJob()
        while vm.monitor("query-jobs"):
            pass
        check(snapshot)

    monkeypatch.setattr(backups.driver, "check_snapshot", ended)
    with pytest.raises(SnapshotFailed, match="was ended before all was read"):
        backups.run()


def test_a_disk_with_a_thread_of_its_own_is_not_exported_by_a_qemu_that_would_end(host: LibvirtHost) -> None:
    vm = host.vm("guest", {"vda": ("qcow2", MIB)}, io_threads=1).start()
    backups = DrivenBackups(vm)
    safe = host.raw.getVersion() >= 9_000_000
    try:
        for _ in range(2):
            vm.scribble(Random(5), 3)
            told = backups.run()
        assert (told["vda"] == "") == safe
        if not safe:
            request = SnapshotRequest(VmRef(vm.uuid, vm.name), "test", ("vda",), options=BY_JOB, series="one")
            with pytest.raises(DiskUnsupported, match="I/O threads"):
                backups.driver.create_snapshot(request, MemoryJournal())
    finally:
        backups.close()
        host.clear()
