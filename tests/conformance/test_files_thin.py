"""Files on thin volumes of LVM and on snapshots of them, made by LVM and the kernel."""

from __future__ import annotations

from pathlib import Path

from holdfast_agent.wire.files import FetchFiles, ListVolumes
from lab import file_trees as trees
from lab.devices import MIB
from lab.movers import Site
from lab.thin_guest import GROUP, SNAPSHOT, VOLUME
from lab.thin_volumes import make_thin

SIZE = 64 * MIB  # more than the pool has


def test_files_on_thin_volumes_and_their_snapshots_are_restored(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    numbers = b"".join(b"%07d\n" % number for number in range(MIB // 4))
    (content / "large").write_bytes(numbers)
    (content / "state").write_text("before")
    before = trees.make_ext4(tmp_path / "before.img", content, "-U", "clear", size=SIZE)
    (content / "state").write_text("after")
    (content / "more").write_bytes(numbers[::-1])
    after = trees.make_ext4(tmp_path / "after.img", content, "-U", "clear", size=SIZE)
    (tmp_path / "disks-of-it").mkdir()
    disks = make_thin(tmp_path / "disks-of-it", before, after)
    site = Site(tmp_path)
    out = site.folder / "disks" / "out"
    with trees.served(site, {disk.name: disk for disk in disks}) as names:
        told = trees.look(site, names, ListVolumes()).volumes
        found = trees.look(site, names, FetchFiles(paths=(b"/",), target=str(out)))
        (half,) = {each.note for each in trees.look(site, names[:1], ListVolumes()).volumes}
    assert {(each.name, each.kind, each.size_bytes, each.note) for each in told} == {
        (f"{GROUP}-{name}", "ext4", SIZE, "") for name in (VOLUME, SNAPSHOT)
    }
    assert found.complaints == ()
    assert (out / f"{GROUP}-{VOLUME}" / "state").read_text() == "after"
    assert (out / f"{GROUP}-{SNAPSHOT}" / "state").read_text() == "before"
    assert ((out / f"{GROUP}-{SNAPSHOT}" / "large").read_bytes() == numbers) is True
    assert ((out / f"{GROUP}-{VOLUME}" / "more").read_bytes() == numbers[::-1]) is True
    assert not (out / f"{GROUP}-{SNAPSHOT}" / "more").exists()
    assert "one of its disks is not in the restore point: restore its disks" in half
