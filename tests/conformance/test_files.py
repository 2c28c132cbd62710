"""Files out of real file systems, by the real process over a real export: all of them, and as they were."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import AlreadyExists, DiskDenied, NotFound
from holdfast_agent.wire.files import FetchFiles, FileKind, FindFiles, ListFiles, ListVolumes
from lab import file_trees as trees
from lab.devices import FILE_SYSTEMS, MIB, mounted_apart
from lab.movers import Site

ALL_UNIX = ("setuid and setgid bits", "devices, pipes and sockets")


@pytest.fixture(scope="module")
def unix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a file system of Unix can have."""
    folder = tmp_path_factory.mktemp("content") / "unix"
    trees.furnish(folder)
    trees.furnish_as_unix(folder)
    trees.date(folder)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def make_xfs(image: Path, content: Path) -> Path:
    maker = trees.require_tool(FILE_SYSTEMS["xfs"].maker[0], FILE_SYSTEMS["xfs"].package)
    trees.run_tool(maker, "-q", trees.blank(image, FILE_SYSTEMS["xfs"].least_bytes))
    with mounted_apart(image, image.with_name("mounted"), kind="xfs") as folder:
        trees.run_tool("cp", "--archive", "--sparse=always", f"{content}/.", folder)
        with (folder / "reserved").open("wb") as file:
            file.write(b"written" * 1000)
            os.posix_fallocate(file.fileno(), 0, 2 * MIB)
        trees.date(folder)
    return image


def make_ntfs(image: Path, content: Path) -> Path:
    maker = trees.require_tool("mkntfs", "ntfs-3g")
    trees.run_tool(maker, "--quick", "--force", "--quiet", "--label", "Windows", trees.blank(image, 64 * MIB))
    with mounted_apart(image, image.with_name("mounted"), kind="ntfs-3g") as folder:
        trees.run_tool("cp", "--recursive", "--preserve=timestamps", f"{content}/.", folder)
        for number in range(0, trees.MANY, 2):
            (folder / "many" / f"a file with quite a long name, number {number}").unlink()
        (folder / "twin").hardlink_to(folder / "size-4096")
        os.setxattr(folder / "etc" / "hostname", "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
        trees.date(folder)
    return image


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "ext4": trees.make_ext4,
    "ext4-128-byte-inodes": lambda image, content: trees.make_ext4(image, content, "-I", "128", "-b", "1024"),
    "ext2": lambda image, content: trees.make_ext4(image, content, kind="ext2"),
    "btrfs": trees.make_btrfs,
    "xfs": make_xfs,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_system_of_unix_is_restored_as_it_was(kind: str, site: Site, unix: Path, tmp_path: Path) -> None:
    """Content, holes, links of both kinds, owners, modes, attributes, access lists, times and names; what is left out
    is told."""
    image = MAKERS[kind](tmp_path / "image", unix)
    wish = FetchFiles(paths=(b"/",), target=str(site.folder / "disks" / "out"), setuid=True)
    with trees.served(site, {"root.img": image}) as disks:
        found = trees.look(site, disks, wish)
    assert [each.partition(": ")[2] for each in found.complaints] == ["devices, pipes and sockets are not restored"]
    expected = trees.described(unix)
    restored = trees.described(site.folder / "disks" / "out")
    for name in (b"lost+found", b"reserved"):
        extra = restored.pop(name, None)
        if extra is not None and name == b"reserved":
            assert extra[0] == (b"written" * 1000).ljust(2 * MIB, b"\0")
    if kind != "xfs":  # whose makers copy whole seconds
        expected = {name: (*facts[:-1], trees.MOMENT_NS // 10**9 * 10**9) for name, facts in expected.items()}
    assert restored == expected
    sparse = site.folder / "disks" / "out" / "sparse"
    assert sparse.stat().st_blocks * 512 <= 3 * MIB


def test_ntfs_is_restored_with_what_was_deleted_left_out(site: Site, tmp_path: Path) -> None:
    """Its index keeps entries of deleted files in blocks that it gave up."""
    trees.furnish(tmp_path / "content")
    image = make_ntfs(tmp_path / "image", tmp_path / "content")
    out = site.folder / "disks" / "out"
    with trees.served(site, {"c.img": image}) as disks:
        found = trees.look(site, disks, FetchFiles(paths=(b"/",), target=str(out)))
        (volume,) = trees.look(site, disks, ListVolumes()).volumes
    assert (volume.kind, volume.label, volume.place, volume.note) == ("NTFS", "Windows", "/", "")
    assert found.complaints == ()
    (tmp_path / "content" / "twin").hardlink_to(tmp_path / "content" / "size-4096")
    for number in range(0, trees.MANY, 2):
        (tmp_path / "content" / "many" / f"a file with quite a long name, number {number}").unlink()
    assert trees.described(out, unix=False) == trees.described(tmp_path / "content", unix=False)
    assert (out / "twin").samefile(out / "size-4096")
    assert (out / "etc" / "hostname").stat().st_mtime_ns == trees.MOMENT_NS
    stream = {"user.Zone.Identifier": b"[ZoneTransfer]\r\nZoneId=3\r\n"}
    assert trees.attributes_of(out / "etc" / "hostname") == stream  # as ntfs-3g shows it


def test_an_ntfs_that_windows_was_using_has_a_note(site: Site, tmp_path: Path) -> None:
    image = tmp_path / "image"
    trees.run_tool(
        trees.require_tool("mkntfs", "ntfs-3g"), "--quick", "--force", "--quiet", trees.blank(image, 16 * MIB)
    )
    trees.run_tool(trees.require_tool("ntfsfix", "ntfs-3g"), image)  # which marks it as to be checked
    with trees.served(site, {"c.img": image}) as disks:
        (volume,) = trees.look(site, disks, ListVolumes()).volumes
        assert "it is marked as to be checked" in volume.note
        assert trees.look(site, disks, ListFiles(path=b"/")).complaints == ()


def make_full_of_attributes(kind: str, image: Path) -> dict[str, bytes]:
    """More on one file than a block holds, and one value as long as such can be."""
    program, *options = FILE_SYSTEMS[kind].maker
    maker = trees.require_tool(program, FILE_SYSTEMS[kind].package)
    if kind == "ext4":
        options += ["-O", "ea_inode", "-b", "4096"]
    trees.run_tool(maker, *options, trees.blank(image, FILE_SYSTEMS[kind].least_bytes))
    wanted = {f"user.{number:03}-{'n' * 100}": b"%03d" % number * 60 for number in range(300 if kind == "xfs" else 12)}
    wanted["user.long"] = bytes(range(256)) * 256
    with mounted_apart(image, image.with_name("mounted"), kind=kind) as folder:
        (folder / "full").touch()
        for name, value in wanted.items():
            os.setxattr(folder / "full", name, value)
        for number in range(0, len(wanted) - 1, 3):  # so that blocks get holes
            os.removexattr(folder / "full", list(wanted)[number])
    return {name: value for number, (name, value) in enumerate(wanted.items()) if number % 3 or name == "user.long"}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_attributes_are_read_from_wherever_a_file_system_puts_them(kind: str, site: Site, tmp_path: Path) -> None:
    """And where they are restored to there is no room for all of them: that is told once, and the file is whole."""
    expected = make_full_of_attributes(kind, tmp_path / "image")
    out = site.folder / "disks" / "out"
    with trees.served(site, {"root.img": tmp_path / "image"}) as disks:
        (full,) = trees.look(site, disks, ListFiles(path=b"/full")).entries
        found = trees.look(site, disks, FetchFiles(paths=(b"/full",), target=str(out)))
    assert {name.decode(): value for name, value in full.attributes} == expected
    restored = trees.attributes_of(out / "full")
    assert (len(found.complaints) <= 1 and restored.items() <= expected.items()) is True
    assert bool(found.complaints) == (restored != expected)


@pytest.mark.parametrize(("bits", "size"), [(12, 8 * MIB), (16, 64 * MIB), (32, 300 * MIB)])
def test_fat_is_restored(bits: int, size: int, site: Site, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    for name in ("SHORT.TXT", "lower.txt", "A longer name than eight.text", "Mixed.tXt", "äöü"):
        (content / name).write_bytes(name.encode() * 3000)
    (content / "folder" / "inside").mkdir(parents=True)
    (content / "folder" / "inside" / "file").write_bytes(b"deep")
    trees.date(content)
    image = trees.make_fat(tmp_path / "image", content, bits, size)
    out = site.folder / "disks" / "out"
    with trees.served(site, {"efi.img": image}) as disks:
        found = trees.look(site, disks, FetchFiles(paths=(b"/",), target=str(out)))
        (volume,) = trees.look(site, disks, ListVolumes()).volumes
    assert (volume.kind, volume.label, volume.uuid) == (f"FAT{bits}", "LABEL", "1234ABCD")
    assert found.complaints == ()
    assert trees.described(out, unix=False) == trees.described(content, unix=False)


def test_clusters_of_fat_may_go_backwards(site: Site, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    data = os.urandom(64 << 10)
    (content / "FRAGMENT.BIN").write_bytes(data)
    image = trees.make_fat(tmp_path / "image", content, 16, 64 * MIB)
    swap_clusters(image, b"FRAGMENTBIN")
    out = site.folder / "disks" / "out"
    with trees.served(site, {"efi.img": image}) as disks:
        trees.look(site, disks, FetchFiles(paths=(b"/",), target=str(out)))
    assert ((out / "FRAGMENT.BIN").read_bytes() == data) is True


def swap_clusters(image: Path, name: bytes) -> None:
    """Let the second and third cluster of a file on FAT16 change their places: the chain goes back by one there."""
    disk = bytearray(image.read_bytes())
    sectors_per_cluster, reserved, tables, root_entries = struct.unpack_from("<BHBH", disk, 13)
    table_sectors = struct.unpack_from("<H", disk, 22)[0]
    root = (reserved + tables * table_sectors) * 512
    first = struct.unpack_from("<H", disk, disk.index(name, root) + 26)[0]
    for table in range(tables):
        at = (reserved + table * table_sectors) * 512 + 2 * first
        assert struct.unpack_from("<HHH", disk, at) == (first + 1, first + 2, first + 3)
        struct.pack_into("<HHH", disk, at, first + 2, first + 3, first + 1)
    size = sectors_per_cluster * 512
    second = root + root_entries * 32 + (first - 2 + 1) * size
    both = disk[second : second + 2 * size]
    disk[second : second + 2 * size] = both[size:] + both[:size]
    image.write_bytes(disk)


class TestLooking:
    @pytest.fixture(scope="class")
    @classmethod
    def export(cls, tmp_path_factory: pytest.TempPathFactory, unix: Path) -> Iterator[tuple[Site, tuple[str, ...]]]:
        """One ext4 with everything, served for the tests below."""
        folder = tmp_path_factory.mktemp("looking")
        site = Site(folder)
        with trees.served(site, {"root.img": trees.make_ext4(folder / "image", unix)}) as disks:
            yield site, disks

    def test_a_folder_is_listed_by_name_page_by_page(self, export: tuple[Site, tuple[str, ...]], unix: Path) -> None:
        site, disks = export
        entries = {each.path: each for each in trees.look(site, disks, ListFiles(path=b"/")).entries}
        assert sorted(entries) == list(entries)
        assert set(entries) == {b"/" + os.fsencode(path.name) for path in unix.iterdir()} | {b"/lost+found"}
        assert entries[b"/link"].target == b"etc/hostname"
        assert entries[b"/pipe"].kind is FileKind.OTHER
        hostname = trees.look(site, disks, ListFiles(path=b"/folder-link/../er/../../etc/hostname")).entries[0]
        assert hostname.path == b"/etc/hostname"
        assert dict(hostname.attributes)[b"security.selinux"] == b"system_u:object_r:etc_t:s0\0"
        assert (hostname.kind, hostname.size, hostname.uid, hostname.gid) == (FileKind.FILE, 4, 1234, 70000)
        after = trees.look(site, disks, ListFiles(path=b"/", after=b"size-1")).entries
        assert [each.path for each in after] == [path for path in entries if path > b"/size-1"]

    def test_files_are_found_by_their_names(self, export: tuple[Site, tuple[str, ...]]) -> None:
        site, disks = export
        found = trees.look(site, disks, FindFiles(path=b"/", pattern=b"h*e"))
        assert sorted(each.path for each in found.entries) == [b"/deep/er/still/here", b"/etc/hostname"]
        assert not found.more
        below = trees.look(site, disks, FindFiles(path=b"/deep", pattern=b"*"))
        assert len(below.entries) == 4

    def test_several_paths_are_fetched_below_their_own_names(
        self, export: tuple[Site, tuple[str, ...]], unix: Path
    ) -> None:
        site, disks = export
        out = site.folder / "disks" / "several"
        found = trees.look(site, disks, FetchFiles(paths=(b"/deep/er/still", b"/etc/hostname"), target=str(out)))
        assert (found.files, found.folders, found.file_bytes) == (2, 1, 9)
        assert sorted(path.name for path in out.iterdir()) == ["hostname", "still"]
        assert out.stat().st_mode & 0o777 == 0o700

    def test_what_is_in_the_way_is_kept_unless_it_is_to_be_replaced(self, export: tuple[Site, tuple[str, ...]]) -> None:
        site, disks = export
        out = site.folder / "disks" / "taken"
        (out / "etc").mkdir(parents=True)
        (out / "etc" / "mine").write_text("mine")
        wish = FetchFiles(paths=(b"/size-1", b"/etc"), target=str(out))
        with pytest.raises(AlreadyExists, match="etc"):
            trees.look(site, disks, wish)
        assert [path.name for path in out.iterdir()] == ["etc"]
        trees.look(site, disks, FetchFiles(paths=wish.paths, target=str(out), overwrite=True))
        assert [path.name for path in (out / "etc").iterdir()] == ["hostname"]
        assert sorted(path.name for path in out.iterdir()) == ["etc", "size-1"]

    def test_setuid_bits_are_left_out_unless_they_are_asked_for(self, export: tuple[Site, tuple[str, ...]]) -> None:
        site, disks = export
        out = site.folder / "disks" / "secret"
        found = trees.look(site, disks, FetchFiles(paths=(b"/secret",), target=str(out)))
        assert (out / "secret").stat().st_mode & 0o7777 == 0o750
        assert found.complaints == ("secret: its setuid and setgid bits were left out",)
        found = trees.look(site, disks, FetchFiles(paths=(b"/size-4095",), target=str(out)))
        assert trees.attributes_of(out / "size-4095") == {}
        assert found.complaints == ("size-4095: its capabilities were left out",)

    def test_what_is_not_there_and_where_nothing_may_be_written_is_told(
        self, export: tuple[Site, tuple[str, ...]]
    ) -> None:
        site, disks = export
        with pytest.raises(NotFound, match="/etc/nothing"):
            trees.look(site, disks, ListFiles(path=b"/etc/nothing"))
        with pytest.raises(NotFound, match="other"):
            trees.look(site, disks, ListFiles(path=b"/"), volume="other")
        with pytest.raises(DiskDenied, match="outside"):
            trees.look(site, disks, FetchFiles(paths=(b"/etc",), target="/srv/files"))
        out = site.folder / "disks" / "half"
        with pytest.raises(NotFound):
            trees.look(site, disks, FetchFiles(paths=(b"/etc", b"/nothing"), target=str(out)))
        assert not out.exists()

    def test_what_a_killed_restore_left_goes_with_the_next(self, export: tuple[Site, tuple[str, ...]]) -> None:
        site, disks = export
        out = site.folder / "disks" / "again"
        (out / ".holdfast-0123.partial" / "etc").mkdir(parents=True)
        trees.look(site, disks, FetchFiles(paths=(b"/size-1",), target=str(out)))
        assert [path.name for path in out.iterdir()] == ["size-1"]
        shutil.rmtree(out)
