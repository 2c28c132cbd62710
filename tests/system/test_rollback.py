"""Quick rollback as users run it: what differs is written over disks that are there, and nothing else."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.contents import assert_same
from lab.disks import qemu_nbd
from lab.installation import Installation, installed
from lab.processes import MOVER, children
from lab.tools import require_tool

MIB = 1 << 20
SIZE = 24 * MIB


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    require_tool("qemu-img", "qemu-utils")
    with installed(tmp_path_factory.mktemp("rollback"), snapshot="in-place") as made:
        made.add_repository("main", encrypted=True)
        yield made


def vm_with_a_point(house: Installation, name: str) -> dict[str, bytes]:
    """A VM with a raw and a qcow2 disk that is backed up; the content of each."""
    folder = house.vms / name
    folder.mkdir()
    contents = {}
    for disk in ("root.raw", "data.qcow2"):
        content = random.Random(f"{name}{disk}").randbytes(SIZE // 2) + bytes(SIZE // 2)
        (folder / "source").write_bytes(content)
        form = disk.partition(".")[2]
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, folder / "source", folder / disk], check=True)
        (folder / "source").unlink()
        contents[disk] = content
    house.add_job(name, repository="main", include=name)
    house.run_job(name)
    return contents


def write(image: Path, *commands: str) -> None:
    form = image.suffix[1:]
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", form, *words, image], check=True, stdout=subprocess.DEVNULL)


def content_of(image: Path) -> bytes:
    raw = image.with_name("found")
    subprocess.run(["qemu-img", "convert", "-f", image.suffix[1:], "-O", "raw", image, raw], check=True)
    content = raw.read_bytes()
    raw.unlink()
    return content


def moved(report: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """By disk, MiB of data and of zeros that were written."""
    return {
        disk["disk"]: (disk["counters"]["sent_bytes"] // MIB, disk["counters"]["zero_bytes"] // MIB)
        for disk in report["disks"]
    }


def test_a_vm_and_single_disks_go_back_to_what_they_were(house: Installation) -> None:
    contents = vm_with_a_point(house, "web")
    root, data = house.vms / "web" / "root.raw", house.vms / "web" / "data.qcow2"
    write(root, "write -P 7 1M 10", "write -P 7 20M 1M", "discard 5M 2M")
    write(data, "write -P 8 2M 3M")
    report = house.holdfast("restore", "vm", "--vm", "web", "--point", "latest", "--server", "lab", "--in-place")
    assert moved(report) == {"root.raw": (3, 1), "data.qcow2": (3, 0)}
    for image in (root, data):
        assert_same(content_of(image), contents[image.name])
    told = house.commands.run(house.command("session", "show", report["id"])[:-2], house.environment, 60).stdout
    assert "in place" in told and "MiB compared, 4.00 MiB written, 1.00 MiB of it zeros" in told, told
    write(root, "write -P 9 0 1")
    write(data, "write -P 9 23M 1M")
    to_disk = ("restore", "disk", "--vm", "web", "--point", "latest", "--in-place")
    report = house.holdfast(*to_disk, "--disk", "root.raw", "--to", root)
    assert moved(report) == {"root.raw": (1, 0)}
    report = house.holdfast(*to_disk, "--disk", "data.qcow2", "--to", f"image:{data}?format=qcow2")
    assert moved(report) == {"data.qcow2": (0, 1)}
    for image in (root, data):
        assert_same(content_of(image), contents[image.name])


def test_what_cannot_be_rolled_back_is_left_as_it_is(house: Installation) -> None:
    vm_with_a_point(house, "db")
    root, data = house.vms / "db" / "root.raw", house.vms / "db" / "data.qcow2"
    write(root, "write -P 7 0 1M")
    before = content_of(root)
    in_place = ("restore", "vm", "--vm", "db", "--point", "latest", "--server", "lab", "--in-place")
    with qemu_nbd(house.home, data, form="qcow2"):
        house.holdfast(*in_place, expect=11)
    subprocess.run(["qemu-img", "resize", "-q", data, "+1M"], check=True)
    refused = house.holdfast(*in_place, expect=2)
    assert "resize it" in json.dumps(refused)
    house.holdfast(*in_place, "--overwrite", expect=2)
    house.holdfast(*in_place, "--name", "nobody", expect=10)
    assert_same(content_of(root), before)


def test_a_session_that_dies_in_the_middle_is_run_again(house: Installation) -> None:
    contents = vm_with_a_point(house, "mail")
    root, data = house.vms / "mail" / "root.raw", house.vms / "mail" / "data.qcow2"
    for image in (root, data):
        write(image, "write -P 7 0 24M")
    house.holdfast("repository", "edit", "main", "--read-limit", "4 MiB")
    in_place = ("restore", "vm", "--vm", "mail", "--point", "latest", "--server", "lab", "--in-place")
    begun = house.holdfast(*in_place, "--detach")["session"]
    while content_of_head(root) == b"\x07" * 16:
        assert house.holdfast("session", "show", str(begun))["state"] != "ended"
    house.kill_session(begun)
    house.holdfast("repository", "edit", "main", "--reset", "read-limit")
    assert house.agent is not None
    while children(house.agent.pid, MOVER):  # they end when the lease of their session lapses
        time.sleep(0.05)
    house.holdfast(*in_place)
    for image in (root, data):
        assert_same(content_of(image), contents[image.name])


def content_of_head(image: Path) -> bytes:
    with image.open("rb") as file:
        return file.read(16)
