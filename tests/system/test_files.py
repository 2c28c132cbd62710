"""Files out of restore points as people get them: `point volumes`, `point ls`, `point find`, `restore files`."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import file_trees as trees
from lab.installation import CommandFailed, Installation, installed
from lab.processes import children
from lab.tools import require_tool
from lab.waiting import wait_until

VM = "web.img"
RAW = "raw.img"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An encrypted repository with two points of an ext4 and of a disk without any; in each one thing has changed."""
    work = tmp_path_factory.mktemp("content")
    content = work / "content"
    trees.furnish(content)
    trees.furnish_as_unix(content)
    with installed(tmp_path_factory.mktemp("house")) as house:
        house.add_repository("main", encrypted=True)
        house.add_job("nightly", repository="main", include="*")
        for name in ("before\n", "web\n"):
            (content / "etc" / "hostname").write_text(name)
            trees.make_ext4(house.vms / VM, content)
            with (house.vms / RAW).open("r+b" if name == "web\n" else "wb") as raw:
                raw.truncate(8 << 20)
                raw.seek(3 << 20)
                raw.write(name.encode())
            house.run_job("nightly")
        yield house


def listed(house: Installation, *arguments: str) -> dict[str, dict[str, Any]]:
    found = house.holdfast("point", *arguments, "--vm", VM)
    return {each["path"]: each for each in found["files"]}


def ended(house: Installation, session: int) -> dict[str, Any]:
    while True:
        report: dict[str, Any] = house.holdfast("session", "show", str(session))
        if report["state"] == "ended":
            return report


def left_over(house: Installation) -> list[Path]:
    agent = house.home / "agent"
    return [*(agent / "exports").glob("*/*"), *(agent / "run").iterdir(), *house.out.rglob(".holdfast-*")]


def test_a_point_is_browsed_and_its_files_are_restored(house: Installation) -> None:
    (volume,) = house.holdfast("point", "volumes", "latest", "--vm", VM)["volumes"]
    assert (volume["name"], volume["kind"], volume["place"]) == (VM, "ext4", "/")
    root = listed(house, "ls", "latest")
    assert root["/secret"]["mode"] == "4750"
    assert root["/link"]["target"] == "etc/hostname"
    assert root["/size-1"]["attributes"]["user.note"] == "of size-1"
    assert root["/size-1"]["attributes"]["user.binary"].startswith("0x00010203")
    hostname = listed(house, "ls", "latest:/etc")["/etc/hostname"]["attributes"]
    assert hostname["security.selinux"] == "system_u:object_r:etc_t:s0"
    shared = "user::rw-,user:2345:r--,user:2346:---,group::r--,mask::rw-,other::---"
    assert hostname["system.posix_acl_access"] == shared
    assert "/not utf-8 \\xff\\xe9 \n and a new line" in root
    assert list(listed(house, "find", "latest:/deep", "h*")) == ["/deep/er/still/here"]
    report = house.holdfast("restore", "files", "latest:/etc", "latest:/deep/er", house.out / "files", "--vm", VM)
    assert (report["kind"], report["result"]) == ("files", "success")
    assert "2 files, 3 folders" in report["disks"][0]["reason"]
    hostname = house.out / "files" / "etc" / "hostname"
    assert hostname.read_text() == "web\n"
    if os.geteuid() == 0:
        assert (hostname.stat().st_uid, hostname.stat().st_gid) == (1234, 70000)
    assert left_over(house) == []


def test_points_are_compared_by_their_blocks_and_by_their_files(house: Installation) -> None:
    newer, older = (point["sid"] for point in house.points(RAW))
    (disk,) = house.holdfast("point", "diff", older, newer)["disks"]
    assert (disk["state"], disk["changed_bytes"], disk["extents"]) == ("changed", 1 << 20, [[3 << 20, 1 << 20]])
    (disk,) = house.holdfast("point", "diff", newer, newer)["disks"]
    assert disk["state"] == "same"
    newer, older = (point["sid"] for point in house.points(VM))
    (file,) = house.holdfast("point", "diff", older, newer, "--path", "/etc")["files"]
    assert (file["path"], file["change"]) == ("/etc/hostname", "changed")
    assert (file["before"]["size"], file["after"]["size"]) == (7, 4)
    found = house.holdfast("point", "find", "latest:/", "h*e", "--vm", VM, "--all-points")
    assert [(each["file"]["path"], each["file"]["size"], each["points"]) for each in found["versions"]] == [
        ("/deep/er/still/here", 5, [newer, older]),
        ("/etc/hostname", 4, [newer]),
        ("/etc/hostname", 7, [older]),
    ]
    with pytest.raises(CommandFailed, match="there is no restore point named"):
        house.holdfast("point", "diff", older, "ffffffff")


def test_a_disk_is_restored_to_other_formats(house: Installation) -> None:
    for image_format in ("qcow2", "vmdk"):
        target = house.out / f"disk.{image_format}"
        house.restore_disk(VM, "latest", target, "--format", image_format)
        compare = ["qemu-img", "compare", "-f", image_format, "-F", "raw", target, house.vms / VM]
        subprocess.run(compare, check=True, capture_output=True)
    with pytest.raises(CommandFailed, match="exists already"):
        house.restore_disk(VM, "latest", house.out / "disk.qcow2", "--format", "qcow2")


def test_what_could_not_be_restored_as_it_was_is_told(house: Installation) -> None:
    report = house.holdfast("restore", "files", "latest:/", house.out / "all", "--vm", VM)
    told = " ".join(problem["message"] for problem in report["problems"])
    assert "secret: its setuid and setgid bits were left out" in told
    assert "pipe: devices, pipes and sockets are not restored" in told
    assert (house.out / "all" / "many").is_dir()


def test_what_is_not_possible_is_told_and_leaves_nothing(house: Installation) -> None:
    wrong = (
        (("latest:/nothing", house.out / "wrong"), "no file in this restore point named '/nothing'"),
        (("latest:/etc", "/srv/files"), "lies outside"),
        (("latest:/etc", house.out / "wrong", "--volume", "other"), "no volume in this restore point named 'other'"),
        (("latest:etc", house.out / "wrong"), "a path that begins with /"),
    )
    for arguments, reason in wrong:
        with pytest.raises(CommandFailed, match=reason):
            house.holdfast("restore", "files", *arguments, "--vm", VM)
    assert not (house.out / "wrong").exists()
    assert left_over(house) == []


def test_an_agent_that_is_killed_in_the_midst_leaves_nothing_that_looks_whole(house: Installation) -> None:
    """Whether the restore goes on by itself depends on how far it was; the next one clears up what it left."""
    target = house.out / "killed"
    session = house.holdfast("restore", "files", "latest:/", target, "--vm", VM, "--detach")["session"]
    house.kill_agent()
    partly = sorted(path.name for path in target.glob("[!.]*"))
    house.start_agent()
    whole = ended(house, session)["result"] == "success"
    assert partly == [] or whole
    house.holdfast("restore", "files", "latest:/", target, "--vm", VM, "--overwrite")
    assert (target / "etc" / "hostname").read_text() == "web\n"
    assert left_over(house) == []


def seen(folder: Path) -> dict[bytes, tuple[int, int, int, int, bytes, dict[str, bytes]]]:
    """Everything below a folder, as whoever looks there sees it."""
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = place + b"/" + name
            facts = os.lstat(path)
            content = b""
            if stat.S_ISLNK(facts.st_mode):
                content = os.fsencode(Path(os.fsdecode(path)).readlink())
            elif stat.S_ISREG(facts.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest()
            mode = facts.st_mode & ~(stat.S_ISUID | stat.S_ISGID)
            attributes = trees.attributes_of(Path(os.fsdecode(path)))
            attributes.pop("security.capability", None)  # left out of a restore without --setuid
            about = (mode, facts.st_uid, facts.st_gid, facts.st_mtime_ns, content, attributes)
            found[os.path.relpath(path, os.fsencode(folder))] = about
    return found


@pytest.fixture
def fuse() -> None:
    """Linux everywhere has it; where a container was given no /dev/fuse, nothing can be mounted."""
    require_tool("fusermount3", "fuse3")
    assert Path("/dev/fuse").exists(), "this host has no /dev/fuse: give the container the device, or load the module"


def mounted(house: Installation, folder: Path, *options: str) -> int:
    session: int = house.holdfast("point", "mount", "latest", folder, "--vm", VM, "--detach", *options)["session"]
    wait_until(lambda: folder.is_mount(), "the mount")
    return session


def test_a_mounted_point_shows_what_a_restore_brings_back(house: Installation, fuse: None) -> None:
    house.holdfast("restore", "files", "latest:/", house.out / "whole", "--vm", VM)
    folder = house.out / "mounted"
    session = mounted(house, folder)
    restored = seen(house.out / "whole")
    assert {path: about for path, about in seen(folder).items() if not stat.S_ISFIFO(about[0])} == restored
    with pytest.raises(OSError, match="Read-only"):
        (folder / "new").touch()
    with (folder / "sparse").open("rb") as file:  # here and there
        whole = (house.out / "whole" / "sparse").read_bytes()
        for place in (len(whole) - 10, 0, len(whole) // 2):
            file.seek(place)
            assert file.read(5000) == whole[place : place + 5000]
    with pytest.raises(FileNotFoundError):
        (folder / "nothing").stat()
    house.holdfast("session", "stop", str(session))
    report = ended(house, session)
    assert (report["result"], folder.exists(), left_over(house)) == ("success", False, [])


def may_read(path: Path, uid: int, gid: int) -> bool:
    """Whether that user of this host can, by what the kernel says."""
    command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "cat", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_others_see_of_a_mount_what_the_guest_would_let_them(house: Installation, fuse: None) -> None:
    """By owner, group, mode and access list; without the option nobody but the agent's user sees anything."""
    require_tool("setpriv", "util-linux")
    folder = house.out / "others"
    for each in house.out.parents:
        if not each.stat().st_mode & stat.S_IXOTH:
            each.chmod(each.stat().st_mode | stat.S_IXOTH)
    hostname = folder / "etc" / "hostname"  # rw-rw---- of user 1234 and group 70000, with a list of its own
    looks = (
        (folder / "size-1", 4321, 4321, True),
        (folder / "secret", 4321, 4321, False),
        (hostname, 4321, 70000, True),
        (hostname, 4321, 4321, False),
        (hostname, 2345, 4321, True),  # whom the list names
        (hostname, 2346, 70000, False),  # and whom it names with nothing
    )
    for options in ((), ("--allow-other",)):
        session = mounted(house, folder, *options)
        told = [may_read(path, uid, gid) for path, uid, gid, _ in looks]
        house.holdfast("session", "stop", str(session))
        assert ended(house, session)["result"] == "success"
        assert told == [bool(options) and expected for *_, expected in looks]


def test_a_mount_ends_with_an_unmount_and_with_a_kill(house: Installation, fuse: None) -> None:
    folder = house.out / "again"
    folder.mkdir()
    session = mounted(house, folder)
    subprocess.run(["fusermount3", "-u", folder], check=True)
    assert ended(house, session)["result"] == "success"
    session = mounted(house, folder)
    assert house.agent is not None
    (looker,) = (pid for pid in children(house.agent.pid, "holdfast_agent.files"))
    os.kill(looker, signal.SIGKILL)
    wait_until(lambda: not folder.is_mount() and list(folder.iterdir()) == [], "the end of the mount")
    assert ended(house, session)["result"] == "failed"
    wait_until(lambda: not list((house.home / "agent" / "run").iterdir()), "nothing of it to be left")
    (folder / "something").touch()
    with pytest.raises(CommandFailed, match="not empty"):
        house.holdfast("point", "mount", "latest", folder, "--vm", VM)
    with pytest.raises(CommandFailed, match="outside"):
        house.holdfast("point", "mount", "latest", "/mnt/holdfast-elsewhere", "--vm", VM)
    wait_until(lambda: not list((house.home / "agent" / "exports").glob("*/*")), "the end of the export")
