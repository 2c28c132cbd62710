"""NBD servers that fail, stall, restart or refuse, by nbdkit's filters; and restores that a server checks."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast_agent.disks.disk import WritableDisk
from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.errors import DiskReadOnly, DiskServerDenied, DiskShrunk, DiskUnreadable, DiskUnwritable, UsageError
from lab.contents import assert_same
from lab.disk_suite import DATA, SIZE, content
from lab.disks import host_for, nbdkit, raw_image

pytestmark = pytest.mark.usefixtures("nbdkit_program")
MIB = 1 << 20


def target(socket: Path, size_bytes: int = SIZE) -> WritableDisk:
    return open_target(f"nbd+unix:{socket}", host_for(socket.parent), size_bytes, create=True, overwrite=True)


def test_a_server_that_restarts_is_read_on(tmp_path: Path) -> None:
    image = str(raw_image(tmp_path / "disk"))
    buffer = bytearray(SIZE)
    with nbdkit(tmp_path, "--readonly", "file", image) as socket:
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
        disk.read_into(0, memoryview(buffer))
    with nbdkit(tmp_path, "--readonly", "file", image):
        buffer = bytearray(SIZE)
        with ThreadPoolExecutor(4) as threads:
            view = memoryview(buffer)
            list(threads.map(lambda at: disk.read_into(at, view[at : at + MIB]), range(0, SIZE, MIB)))
        assert_same(buffer, content())
        assert sum(extent.length for extent in disk.extents()) == SIZE
        disk.close()


def test_a_server_that_comes_back_with_another_disk_is_not_read_on(tmp_path: Path) -> None:
    with nbdkit(tmp_path, "--readonly", "memory", "2M") as socket:
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
    with nbdkit(tmp_path, "--readonly", "memory", "1M"):
        with pytest.raises(DiskShrunk, match="ends at 1048576 bytes"):
            disk.read_into(0, memoryview(bytearray(4096)))
        disk.close()


def test_a_server_that_answers_too_late_is_an_unreadable_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_agent.disks.patience.PAUSES_S", ())
    options = ("--filter=delay", "file", str(raw_image(tmp_path / "disk")), "rdelay=30")
    with nbdkit(tmp_path, "--readonly", *options) as socket:
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path, timeout_s=1.5))
        with pytest.raises(DiskUnreadable, match=r"no answer|says nothing"):
            disk.read_into(0, memoryview(bytearray(4096)))
        disk.close()


def test_slow_answers_of_one_connection_overlap(tmp_path: Path) -> None:
    """16 reads of 50 ms each take less than 16 times that: they are under way together."""
    options = ("--filter=delay", "--filter=multi-conn", "file", str(raw_image(tmp_path / "disk")), "rdelay=50ms")
    with nbdkit(tmp_path, "--readonly", *options, "multi-conn-mode=disable") as socket:
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
        together, most, guard = 0, 0, threading.Lock()

        def read(at: int) -> None:
            nonlocal together, most
            buffer = bytearray(4096)
            with guard:
                together += 1
                most = max(most, disk._export._connections[0].in_flight)  # type: ignore[attr-defined]
            disk.read_into(at, memoryview(buffer))
            assert_same(buffer, content()[at : at + 4096])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(read, range(0, 16 * 4096, 4096)))
        disk.close()
        assert most > 2


def test_reads_at_a_limited_rate(tmp_path: Path) -> None:
    options = ("--filter=rate", "file", str(raw_image(tmp_path / "disk")), "rate=200M")  # bits a second
    with nbdkit(tmp_path, "--readonly", *options) as socket:
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
        buffer = bytearray(SIZE)
        disk.read_into(0, memoryview(buffer))
        disk.close()
    assert_same(buffer, content())


@pytest.mark.parametrize("plugin", [("pattern", "1G"), ("sparse-random", "size=1G", "seed=7")])
def test_generated_disks_are_read_as_nbdcopy_reads_them(tmp_path: Path, plugin: tuple[str, ...]) -> None:
    size = 64 * MIB
    with nbdkit(tmp_path, "--readonly", "--filter=truncate", *plugin, f"truncate={size}") as socket:
        subprocess.run(["nbdcopy", f"nbd+unix:///?socket={socket}", tmp_path / "copy"], check=True)
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
        found = bytearray(size)
        for extent in disk.extents():
            if extent.data:
                disk.read_into(extent.start, memoryview(found)[extent.start : extent.start + extent.length])
        disk.close()
    assert_same(found, (tmp_path / "copy").read_bytes())


def test_every_byte_of_a_restore_is_checked_by_the_server(tmp_path: Path) -> None:
    """nbdkit's checkwrite refuses what differs from the image, holes included."""
    whole = content()
    with nbdkit(tmp_path, "--filter=checkwrite", "file", str(raw_image(tmp_path / "disk"))) as socket:
        disk = target(socket)
        position = 0
        for start, length in DATA:
            disk.write_zeros(position, start - position)
            disk.write(start, whole[start : start + length])
            position = start + length
        disk.finish()
        wrong = target(socket)
        with pytest.raises(DiskUnwritable) as caught:
            wrong.write(4096 * 3, b"x" * 4096)
        assert caught.value.fields["offset_bytes"] == 4096 * 3
        with pytest.raises(DiskUnwritable):
            wrong.write_zeros(0, 4096)
        wrong.abort()


def test_a_restore_asks_for_zeros_and_ends_with_a_flush(tmp_path: Path) -> None:
    log, image = tmp_path / "log", tmp_path / "image"
    image.write_bytes(b"x" * 4 * MIB)
    with nbdkit(tmp_path, "--filter=log", "file", f"file={image}", f"logfile={log}") as socket:
        disk = target(socket, 4 * MIB)
        disk.write(0, b"y" * 4096)
        disk.write_zeros(MIB, 3 * MIB)
        disk.finish()
    found = [match[1] for match in re.finditer(r" (Write|Zero|Flush) id=\d+ .*\.\.\.$", log.read_text(), re.MULTILINE)]
    assert found == ["Write", "Zero", "Flush"]
    assert "fua=1" not in log.read_text()


def test_where_nothing_can_be_flushed_each_write_is_made_durable(tmp_path: Path) -> None:
    script = """case "$1" in
        get_size) echo 4M;; can_write|can_zero) exit 0;; can_flush) exit 3;; can_fua) echo native;;
        pread) dd if=/dev/zero bs=$3 count=1 status=none;; pwrite) cat >/dev/null; echo "pwrite $5" >>"$LOG";;
        zero) echo "zero $5" >>"$LOG";; *) exit 2;; esac"""
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\nLOG={tmp_path}/log\n{script}\n")
    program.chmod(0o700)
    with nbdkit(tmp_path, "sh", str(program)) as socket:
        disk = target(socket, 4 * MIB)
        disk.write(0, b"y" * 4096)
        disk.write_zeros(4096, MIB)
        disk.finish()
    lines = (tmp_path / "log").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"pwrite", "zero"}
    assert all("fua" in line for line in lines)


def test_a_server_whose_writes_fail(tmp_path: Path) -> None:
    options = ("--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%")
    with nbdkit(tmp_path, *options) as socket:
        disk = target(socket, MIB)
        with pytest.raises(DiskUnwritable, match="No space left"):
            disk.write(4096, b"x" * 4096)
        disk.abort()


def test_an_export_that_is_read_only_or_too_small_is_refused(tmp_path: Path) -> None:
    with nbdkit(tmp_path, "--readonly", "memory", "1M") as socket, pytest.raises(DiskReadOnly):
        target(socket, MIB)
    with nbdkit(tmp_path, "memory", "1M") as socket, pytest.raises(UsageError, match="the restore needs"):
        target(socket, 2 * MIB)


@pytest.mark.parametrize("rules", [(), ("nbds://localhost",), ("nbd://localhost:1",), ("https://localhost",)])
def test_only_servers_that_the_agent_names_are_reached(tmp_path: Path, rules: tuple[str, ...]) -> None:
    with pytest.raises(DiskServerDenied, match="nbd://localhost"):
        open_disk("nbd://localhost", host_for(tmp_path, *rules))
    with pytest.raises(DiskServerDenied):
        open_target("nbd://localhost", host_for(tmp_path, *rules), MIB, create=False, overwrite=True)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskUnreadable, match="refused"),
        contextlib.closing(open_disk("nbd://127.0.0.1:1", host_for(tmp_path, "nbd://127.0.0.1"))),
    ):
        pass
