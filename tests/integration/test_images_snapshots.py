"""Snapshots of the hypervisor `images` where something goes wrong, and where they must be exact."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed, SnapshotNotRemoved
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions, ImagesSnapshotOptions, SnapshotMethod
from holdfast_plugins.hypervisors.images import snapshots as snapshots_module
from holdfast_plugins.testkit import MemoryJournal
from lab.contents import assert_same
from lab.devices import WITH_REFLINKS, small_file_system
from lab.tools import missing

VM = VmRef("vm", "vm")
DISKS = ("a.raw", "b.raw")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_vm(tmp_path / "images")


@pytest.fixture(scope="module", params=WITH_REFLINKS)
def reflinks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_file_system(tmp_path_factory.mktemp("reflinks"), kind=request.param) as root:
        yield root


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on another kind of file system than the images'."""
    directory = Path(f"/dev/shm/holdfast-test-{uuid.uuid4().hex}")  # noqa: S108 (a name that nobody can guess)
    directory.mkdir(mode=0o700)
    yield directory
    subprocess.run(["rm", "-r", directory], check=True)


def make_vm(directory: Path) -> Path:
    (directory / "vm").mkdir(parents=True)
    for name in DISKS:
        (directory / "vm" / name).write_bytes(name.encode() * 100_000)
    return directory


def driver(images: Path, method: SnapshotMethod = SnapshotMethod.AUTO, snapshot_dir: str = "") -> ImagesDriver:
    return ImagesDriver(ImagesOptions(path=str(images), snapshot=method, snapshot_dir=snapshot_dir), {})


def request(**options: SnapshotMethod) -> SnapshotRequest:
    return SnapshotRequest(VM, "test", DISKS, ImagesSnapshotOptions(**options) if options else None)


def paths(snapshot: Snapshot) -> list[Path]:
    return [Path(parse_disk_url(disk.urls[0]).path) for disk in snapshot.disks]


def frozen(snapshots: Path) -> list[str]:
    """What lies in the directory of snapshots."""
    return [path.name for path in snapshots.iterdir() if path.name != "HOLDFAST-SNAPSHOTS"]


def meddle(monkeypatch: pytest.MonkeyPatch, name: str, victim: Path) -> None:
    """Have somebody write to ``victim`` right after the first disk was frozen by the function ``name``."""
    original = getattr(snapshots_module, name)

    def freeze_then_write(source: int, target: int) -> None:
        original(source, target)
        with victim.open("r+b") as file:
            file.write(b"!")

    monkeypatch.setattr(snapshots_module, name, freeze_then_write)


def test_a_disk_that_changes_while_it_is_copied_fails_the_snapshot(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meddle(monkeypatch, "copy_sparse", images / "vm" / "a.raw")
    journal = MemoryJournal()
    with pytest.raises(SnapshotFailed, match=r"a\.raw changed while being copied; stop or freeze the VM") as caught:
        driver(images, SnapshotMethod.COPY).create_snapshot(request(), journal)
    assert caught.value.retryable
    assert not journal.open
    assert not frozen(images / ".holdfast")


def test_clones_that_are_not_of_one_instant_say_so(reflinks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_vm(reflinks / "meddled")
    one = driver(images).create_snapshot(request(), MemoryJournal())
    assert one.note == "reflink"
    meddle(monkeypatch, "clone", images / "vm" / "a.raw")
    several = driver(images).create_snapshot(request(), MemoryJournal())
    assert one.warning == "" and "not of one instant" in several.warning


def test_what_is_read_in_place_and_written_to_meanwhile_makes_no_point(images: Path) -> None:
    """Whoever says that nobody writes may be wrong: a guest that is started, a tool that repairs an image."""
    place = driver(images, SnapshotMethod.IN_PLACE)
    snapshot = place.create_snapshot(request(), MemoryJournal())
    place.check_snapshot(snapshot)
    with (images / "vm" / "a.raw").open("r+b") as file:
        file.write(b"!")
    with pytest.raises(SnapshotFailed, match=r"a\.raw was written to while it was read in place") as caught:
        place.check_snapshot(snapshot)
    assert caught.value.retryable
    again = place.create_snapshot(request(), MemoryJournal())
    place.check_snapshot(again)
    (images / "vm" / "b.raw").unlink()
    with pytest.raises(SnapshotFailed, match=r"b\.raw was written to"):
        place.check_snapshot(again)


def test_a_clone_shares_its_blocks(reflinks: Path) -> None:
    images = make_vm(reflinks / "shared")
    with (images / "vm" / "a.raw").open("r+b") as file:
        file.write(os.urandom(8 << 20))
        os.fsync(file.fileno())
    before = os.statvfs(reflinks).f_bfree
    driver(images, SnapshotMethod.REFLINK).create_snapshot(request(), MemoryJournal())
    used = (before - os.statvfs(reflinks).f_bfree) * os.statvfs(reflinks).f_frsize
    assert used < 1 << 20


def test_reflink_only_is_refused_where_there_are_none(images: Path, memory: Path) -> None:
    journal = MemoryJournal()
    with pytest.raises(DiskUnsupported, match=r"takes no reflinks.*auto") as caught:
        driver(images, SnapshotMethod.REFLINK, str(memory / "snapshots")).create_snapshot(request(), journal)
    assert not caught.value.retryable
    assert not journal.open
    assert not frozen(memory / "snapshots")


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_copy_keeps_holes_size_and_mode(images: Path, memory: Path, elsewhere: bool) -> None:
    disk = images / "vm" / "a.raw"
    with disk.open("wb") as file:
        file.seek(8 << 20)
        file.write(b"data in the middle")
        file.truncate((16 << 20) + 7)
    disk.chmod(0o640)
    snapshots = str(memory / "snapshots") if elsewhere else ""
    snapshot = driver(images, SnapshotMethod.COPY, snapshots).create_snapshot(request(), MemoryJournal())
    copy = paths(snapshot)[0]
    assert snapshot.disks[0].size_bytes == copy.stat().st_size == (16 << 20) + 7
    assert copy.stat().st_blocks * 512 < 1 << 20
    assert copy.stat().st_mode & 0o777 == 0o640
    assert_same(copy.read_bytes(), disk.read_bytes())


def test_a_copy_that_does_not_fit_is_not_begun(images: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        journal = MemoryJournal()
        with pytest.raises(SnapshotFailed, match=r"copies need 6\d\.\d MiB, but only 1\.00 MiB are free"):
            driver(images, SnapshotMethod.COPY, str(small / "snapshots")).create_snapshot(request(), journal)
        assert not journal.open
        assert not frozen(small / "snapshots")
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_job_may_choose_the_method(images: Path) -> None:
    snapshot = driver(images).create_snapshot(request(method=SnapshotMethod.IN_PLACE), MemoryJournal())
    assert paths(snapshot) == [images / "vm" / name for name in DISKS]
    assert "in place" in snapshot.note
    assert not (images / ".holdfast").exists()


def test_a_disk_that_is_gone_is_told(images: Path) -> None:
    (images / "vm" / "b.raw").unlink()
    with pytest.raises(SnapshotFailed, match=r"no disk b\.raw any more"):
        driver(images).create_snapshot(request(), MemoryJournal())


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../vm", "/etc", "vm", "snapshot-", "snapshot-00000000000000zz", "HOLDFAST"]
)
def test_an_obligation_with_a_forged_name_deletes_nothing(images: Path, name: str) -> None:
    target = driver(images)
    target.create_snapshot(request(), MemoryJournal())
    before = sorted(images.rglob("*"))
    for kind, root in (("images-snapshot", images / ".holdfast"), ("images-beside", images)):
        with pytest.raises(SnapshotNotRemoved, match="not a name that the plugin gives"):
            target.fulfil(kind, {"root": str(root), "name": name})
    assert sorted(images.rglob("*")) == before


def test_an_obligation_for_another_directory_is_kept(images: Path, tmp_path: Path) -> None:
    journal = MemoryJournal()
    driver(images).create_snapshot(request(), journal)
    moved = driver(images, snapshot_dir=str(tmp_path / "elsewhere"))
    for obligation in journal.open.values():
        with pytest.raises(SnapshotNotRemoved, match="delete it there by hand"):
            moved.fulfil(obligation.kind, obligation.data)
    assert len(frozen(images / ".holdfast")) == 1


def test_storage_that_is_not_mounted_does_not_count_as_removed(images: Path) -> None:
    journal = MemoryJournal()
    snapshot = driver(images).create_snapshot(request(), journal)
    (images / ".holdfast").rename(images / ".unmounted")
    (images / ".holdfast").mkdir()
    with pytest.raises(SnapshotNotRemoved, match="is its storage mounted"):
        driver(images).remove_snapshot(snapshot, committed=True, journal=journal)
    assert len(journal.open) == 1
