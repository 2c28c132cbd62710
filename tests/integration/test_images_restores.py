"""Restores into the hypervisor `images`: never half a VM, never somebody else's files."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from holdfast_agent.errors import AlreadyExists, DiskInUse, DiskNotFound, DiskShrunk, UsageError
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import DiskInfo, RestoreTarget, VmInfo, VmRef
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions
from holdfast_plugins.hypervisors.images import restores as restores_module
from holdfast_plugins.testkit import MemoryJournal

INFO = VmInfo(VmRef("vm", "vm"), (DiskInfo("root.raw", "root.raw", 3), DiskInfo("data.qcow2", "data.qcow2", 3)))


class SuddenDeath(BaseException):
    """Stands for kill -9 at that point."""


@pytest.fixture
def driver(tmp_path: Path) -> ImagesDriver:
    return ImagesDriver(ImagesOptions(path=str(tmp_path)), {})


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


def make_vm(directory: Path) -> None:
    directory.mkdir()
    (directory / "root.raw").write_bytes(b"old")
    (directory / "notes.txt").write_text("keep me")
    (directory / "scripts").mkdir()


def write(target: RestoreTarget, data: bytes = b"new") -> None:
    for disk in target.disks:
        Path(parse_disk_url(disk.url).path).write_bytes(data)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def fulfil(tmp_path: Path, journal: MemoryJournal) -> None:
    other = ImagesDriver(ImagesOptions(path=str(tmp_path)), {})
    for obligation in reversed(journal.open.values()):
        other.fulfil(obligation.kind, obligation.data)


def test_disks_become_raw_files_with_safe_and_different_names(driver: ImagesDriver, journal: MemoryJournal) -> None:
    ids = ["root.raw", "root.qcow2", "2000", "../../etc/passwd", "ü x.img", ".hidden", ""]
    info = VmInfo(VmRef("1", "x"), tuple(DiskInfo(disk_id, disk_id, 0) for disk_id in ids))
    target = driver.prepare_restore("new", info, overwrite=False, journal=journal)
    assert [disk.name for disk in target.disks] == [
        "root.raw", "root-1.raw", "2000.raw", "_.._etc_passwd.raw", "ü_x.img", "hidden.raw", "disk.raw",
    ]  # fmt: skip
    assert [disk.disk_id for disk in target.disks] == ids
    write(target, b"")
    driver.finish_restore(target, info, journal)
    assert len(driver.vm_info(VmRef("new", "new")).disks) == len(ids)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../b", "a\nb", "x" * 201])
def test_names_that_cannot_be_are_refused(driver: ImagesDriver, journal: MemoryJournal, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a VM"):
        driver.prepare_restore(name, INFO, overwrite=True, journal=journal)
    assert not journal.open


def test_replacing_a_vm_keeps_what_is_no_image(tmp_path: Path, driver: ImagesDriver, journal: MemoryJournal) -> None:
    make_vm(tmp_path / "vm")
    target = driver.prepare_restore("vm", INFO, overwrite=True, journal=journal)
    write(target)
    driver.finish_restore(target, INFO, journal)
    assert tree(tmp_path) == {"vm/root.raw": b"new", "vm/data.raw": b"new", "vm/notes.txt": b"keep me"}
    assert (tmp_path / "vm" / "scripts").is_dir()
    assert not journal.open


def test_a_lone_image_is_replaced_by_a_folder(tmp_path: Path, driver: ImagesDriver, journal: MemoryJournal) -> None:
    (tmp_path / "vm.raw").write_bytes(b"old")
    target = driver.prepare_restore("vm.raw", INFO, overwrite=True, journal=journal)
    write(target)
    driver.finish_restore(target, INFO, journal)
    assert tree(tmp_path) == {"vm.raw/root.raw": b"new", "vm.raw/data.raw": b"new"}


def test_what_is_no_vm_is_never_replaced(tmp_path: Path, driver: ImagesDriver, journal: MemoryJournal) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter.txt").write_text("Dear all")
    with pytest.raises(AlreadyExists, match="not a VM"):
        driver.prepare_restore("documents", INFO, overwrite=True, journal=journal)
    assert tree(tmp_path) == {"documents/letter.txt": b"Dear all"}


def test_a_running_vm_is_not_replaced(tmp_path: Path, driver: ImagesDriver, journal: MemoryJournal) -> None:
    make_vm(tmp_path / "vm")
    with (tmp_path / "vm" / "root.raw").open("r+b") as running:
        fcntl.lockf(running, fcntl.LOCK_EX)
        with pytest.raises(DiskInUse, match="open for writing"):
            driver.prepare_restore("vm", INFO, overwrite=True, journal=journal)


def test_a_vm_that_came_meanwhile_is_not_replaced(tmp_path: Path, driver: ImagesDriver, journal: MemoryJournal) -> None:
    target = driver.prepare_restore("vm", INFO, overwrite=False, journal=journal)
    write(target)
    make_vm(tmp_path / "vm")
    with pytest.raises(AlreadyExists):
        driver.finish_restore(target, INFO, journal)
    driver.abandon_restore(target, journal)
    assert tree(tmp_path) == {"vm/root.raw": b"old", "vm/notes.txt": b"keep me"}


def test_a_disk_that_was_not_written_whole_is_not_made_known(
    tmp_path: Path, driver: ImagesDriver, journal: MemoryJournal
) -> None:
    target = driver.prepare_restore("vm", INFO, overwrite=False, journal=journal)
    with pytest.raises(DiskNotFound):
        driver.finish_restore(target, INFO, journal)
    write(target, b"12")
    with pytest.raises(DiskShrunk, match=r"ends at 2 bytes, but had 3"):
        driver.finish_restore(target, INFO, journal)
    assert not driver.list_vms()
    driver.abandon_restore(target, journal)
    assert not tree(tmp_path)


@pytest.mark.parametrize(
    ("function", "when", "left"),
    [
        ("rename_into_place", "before", b"old"),
        ("rename_into_place", "after", b"new"),
        ("retire", "before", b"new"),
        ("retire", "after", b"new"),
    ],
)
def test_death_in_mid_replacement_leaves_one_whole_vm(
    tmp_path: Path,
    driver: ImagesDriver,
    journal: MemoryJournal,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    when: str,
    left: bytes,
) -> None:
    make_vm(tmp_path / "vm")
    target = driver.prepare_restore("vm", INFO, overwrite=True, journal=journal)
    write(target)
    original = getattr(restores_module, function)
    dead = False

    def die(*arguments: object, **named: object) -> None:
        nonlocal dead
        if when == "after" and not dead:
            original(*arguments, **named)
        dead = True
        raise SuddenDeath

    with monkeypatch.context() as patch:
        patch.setattr(restores_module, function, die)
        if function == "rename_into_place":
            # A dead process runs no `finally` either.
            patch.setattr(ImagesDriver, "_settle", lambda *_: (_ for _ in ()).throw(SuddenDeath))
        with pytest.raises(SuddenDeath):
            driver.finish_restore(target, INFO, journal)
    for _ in range(2):
        fulfil(tmp_path, journal)
        whole = {"vm/root.raw": left, "vm/notes.txt": b"keep me"}
        assert tree(tmp_path) == (whole if left == b"old" else whole | {"vm/data.raw": left})


def test_an_old_vm_that_cannot_be_deleted_yet_spoils_no_restore(
    tmp_path: Path, driver: ImagesDriver, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_vm(tmp_path / "vm")
    target = driver.prepare_restore("vm", INFO, overwrite=True, journal=journal)
    write(target)

    def fail(*_: object, **__: object) -> None:
        raise OSError("busy")

    with monkeypatch.context() as patch:
        patch.setattr(restores_module, "retire", fail)
        driver.finish_restore(target, INFO, journal)
    assert [vm.name for vm in driver.list_vms()] == ["vm"]
    assert len(journal.open) == 1
    fulfil(tmp_path, journal)
    assert tree(tmp_path) == {"vm/root.raw": b"new", "vm/data.raw": b"new", "vm/notes.txt": b"keep me"}
