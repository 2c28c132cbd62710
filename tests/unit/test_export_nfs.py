"""Parts of exports over NFS: what a share holds through crashes, and what its files are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.errors import DiskUnsupported
from holdfast_agent.export.nfs.names import ROOT
from holdfast_agent.export.nfs.protocol import Create, Kind, Refusal, Status
from holdfast_agent.export.nfs.share import Share
from holdfast_agent.export.nfs.vmdk import descriptor, stems_of

QUOTA = 1 << 20


def share_in(folder: Path) -> Share:
    return Share(folder / "nfs", "/holdfast/x", [], QUOTA)


def make(share: Share, name: str, parent: int = ROOT) -> int:
    return share.create(parent, name, 0o600, Create.GUARDED).node.number


def refused(act: Callable[[], object]) -> Status:
    with pytest.raises(Refusal) as refusal:
        act()
    return refusal.value.status


def test_a_number_means_one_file_for_ever(tmp_path: Path) -> None:
    """A client's handle of a removed file must never mean the next one, also after a start."""
    share = share_in(tmp_path)
    first = make(share, "a")
    share.remove(ROOT, "a", Kind.FILE)
    again = share_in(tmp_path)
    second = make(again, "a")
    assert second > first
    assert refused(lambda: again.facts(first)) == Status.STALE
    again.write(second, 0, memoryview(b"content"), durable=True)
    folder = again.make_folder(ROOT, "folder", 0o700).node.number
    again.rename(ROOT, "a", folder, "b")
    last = share_in(tmp_path)
    assert (last.lookup(folder, "b"), bytes(last.read(second, 0, 100)[0])) == (second, b"content")  # type: ignore[arg-type] # a part is no number here


def test_what_a_crash_left_between_a_file_and_its_name_is_removed(tmp_path: Path) -> None:
    share = share_in(tmp_path)
    kept = make(share, "kept")
    stray = tmp_path / "nfs" / "files" / f"{kept + 1:016x}"
    stray.write_bytes(b"made, and its name not yet")
    again = share_in(tmp_path)
    assert not stray.exists()
    assert again.facts(kept).size_bytes == 0
    assert again.read(make(again, "next"), 0, 100) == [b""], "nothing of it is in the next file"


def test_bytes_are_bounded_for_all_files_and_what_is_removed_is_free_again(tmp_path: Path) -> None:
    share = share_in(tmp_path)
    one, two = make(share, "one"), make(share, "two")
    half = memoryview(b"x" * (QUOTA // 2))
    for _ in range(3):  # over itself it takes no more
        share.write(one, 0, half, durable=False)
    assert refused(lambda: [share.write(two, at, half, durable=False) for at in (0, QUOTA // 2)]) == Status.NOSPC
    share.remove(ROOT, "one", Kind.FILE)
    share.write(two, 0, half, durable=False)
    share.write(two, 1 << 39, memoryview(b"far away"), durable=False)


def test_a_folder_never_goes_into_itself(tmp_path: Path) -> None:
    share = share_in(tmp_path)
    outer = share.make_folder(ROOT, "outer", 0o700).node.number
    inner = share.make_folder(outer, "inner", 0o700).node.number
    assert refused(lambda: share.rename(ROOT, "outer", inner, "x")) == Status.INVAL
    assert refused(lambda: share.rename(ROOT, "outer", outer, "x")) == Status.INVAL
    assert refused(lambda: share.remove(ROOT, "outer", Kind.FOLDER)) == Status.NOTEMPTY
    share.remove(outer, "inner", Kind.FOLDER)
    share.remove(ROOT, "outer", Kind.FOLDER)
    assert share.children(ROOT) == []


def test_files_of_disks_have_plain_and_different_names() -> None:
    assert stems_of(["Hard disk 1", "Hard/disk 1", "root.vmdk", "...", "scsi0:0"]) == [
        "Hard_disk_1", "Hard_disk_1+1", "root", "disk", "scsi0_0",
    ]  # fmt: skip
    with pytest.raises(DiskUnsupported):
        descriptor("odd", 1000, "odd-flat.vmdk")
