"""What a backup costs a running QEMU: the snapshot, its guest's writes meanwhile, and an incremental of one per cent.

Run: ``.venv/bin/python benchmarks/running_guest.py [--size-mib 1024]``. The guest runs by software emulation; its
writes are timed by QEMU itself (`query-blockstats`), 4 KiB each and past all caches of the guest, over a stretch that
was not written since the snapshot. The reader of the snapshot takes 4 MiB/s, and so does the target of a backup without
fleecing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from holdfast_agent.disks.open import open_disk
from holdfast_plugins.api import Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.qemu import QemuDriver, QemuOptions
from holdfast_plugins.hypervisors.qemu.monitor import Monitor
from holdfast_plugins.testkit import MemoryJournal
from lab.disks import host_for
from lab.guest import Guest, saved
from lab.installation import Installation, installed
from lab.qemu_vms import MIB, QemuVm

ROUNDS = 3
SLOW_BYTES_PER_S = 4 * MIB
WRITES, DURABLE, WRITE_BYTES = 2000, 150, 4096
DISK_BYTES = 64 * MIB
VM = VmRef("vm", "vm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=1024)
    size_mib: int = parser.parse_args().size_mib
    with tempfile.TemporaryDirectory(prefix="holdfast-qemu-") as folder:
        snapshots(Path(folder))
        latencies(Path(folder))
        incremental(Path(folder), size_mib * MIB)


def snapshots(folder: Path) -> None:
    print("| disks | snapshot in all | of it the command that freezes them |")
    print("|---|---|---|")
    for disks in (1, 2, 4):
        place = folder / f"disks-{disks}"
        with QemuVm(place, {f"disk{number}": ("qcow2", 64 * MIB) for number in range(disks)}) as vm:
            driver, times = _driver(f"vm={vm.monitor}", vm.scratch), []
            for _ in range(ROUNDS):
                with _timed("blockdev-reopen") as reopened:
                    began = time.monotonic()
                    with _snapshot(driver):
                        times.append((time.monotonic() - began, reopened[0]))
        whole, freeze = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {disks} | {whole * 1e3:.0f} ms | {freeze * 1e3:.1f} ms |", flush=True)


def latencies(folder: Path) -> None:
    print("\n| while the guest writes 4 KiB | made durable, each to another 64 KiB | cached, one after the other |")
    print("|---|---|---|")
    place = folder / "guest"
    place.mkdir()
    with saved(buses=("virtio-blk", "virtio-blk")).resume(place, "qcow2", "raw") as guest:
        device = guest.agent.execute("/bin/findfs", "LABEL=lab-1").strip()
        guest.agent.shell("umount /mnt/1")
        driver = _driver(f"vm=unix:{guest.qmp}", place)
        ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
            "no backup": contextlib.nullcontext,
            "fleecing, read at 4 MiB/s": lambda: _slow_backup(driver, place),
            "no fleecing (`blockdev-backup`), to 4 MiB/s": lambda: _backup_without_fleecing(guest, place),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        _cached_write_s(guest, device)  # once for the space on the host's disk
        for _ in range(ROUNDS):
            for name, way in ways.items():
                with way():
                    cached_s = _cached_write_s(guest, device)  # first, as long as nothing has been copied
                    found[name].append((_durable_write_s(guest, device), cached_s))
    base = [statistics.median(column) for column in zip(*found["no backup"], strict=True)]
    for name, times in found.items():
        durable, cached = (statistics.median(column) for column in zip(*times, strict=True))
        told = f"{durable * 1e6:.0f} µs (× {durable / base[0]:.2f})"
        print(f"| {name} | {told} | {cached * 1e6:.0f} µs (× {cached / base[1]:.2f}) |", flush=True)


def incremental(folder: Path, size_bytes: int) -> None:
    place = folder / "house"
    with installed(place) as house, QemuVm(place / "vm", {"root": ("qcow2", size_bytes)}) as vm:
        vms = json.dumps([f"vm={vm.monitor}"])
        options = ("--option", f"vms={vms}", "--option", f"scratch_dir={vm.scratch}")
        house.holdfast("server", "add", "qemu", "--plugin", "qemu", *options)
        house.add_repository("main", encrypted=True)
        house.holdfast("job", "create", "job", "--server", "qemu", "--include", "vm", "--repository", "main")
        for start in range(0, size_bytes, 8 * MIB):
            vm.io("root", f"write -s /dev/urandom {start} {8 * MIB}")
        print(f"\n| backup of {size_bytes >> 20} MiB | whole command | read | sent | mode |\n|---|---|---|---|---|")
        _report("first", house)
        for _ in range(3):
            for number in range(10):  # ten stretches, together one per cent
                start = size_bytes // 10 * number + size_bytes // 20 // MIB * MIB
                vm.io("root", f"write -s /dev/urandom {start} {size_bytes // 1000 // 4096 * 4096}")
            _report("1 % changed", house)
        _report("nothing changed", house)


def _report(what: str, house: Installation) -> None:
    began = time.monotonic()
    report = house.run_job("job")
    took_s = time.monotonic() - began
    (disk,) = report["disks"]
    counted: dict[str, Any] = disk["counters"]
    read, sent = (f"{counted[key] / MIB:.1f} MiB" for key in ("read_bytes", "sent_bytes"))
    print(f"| {what} | {took_s:.2f} s | {read} | {sent} | {disk['mode']} |", flush=True)


def _driver(vm: str, scratch: Path) -> QemuDriver:
    return QemuDriver(QemuOptions(vms=(vm,), scratch_dir=str(scratch)), {})


@contextlib.contextmanager
def _snapshot(driver: QemuDriver) -> Iterator[Snapshot]:
    journal = MemoryJournal()
    disks = tuple(disk.disk_id for disk in driver.vm_info(VM).disks)
    snapshot = driver.create_snapshot(SnapshotRequest(VM, "benchmark", disks), journal)
    yield snapshot
    driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, committed=True, journal=journal)


@contextlib.contextmanager
def _timed(command: str) -> Iterator[list[float]]:
    """How long each command of that name took meanwhile."""
    real, times = Monitor.run, list[float]()

    def run(monitor: Monitor, name: str, *arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return real(monitor, name, *arguments, **named)
        finally:
            if name == command:
                times.append(time.monotonic() - began)

    Monitor.run = run  # type: ignore[method-assign]  # a stopwatch for as long as this lasts
    try:
        yield times
    finally:
        Monitor.run = real  # type: ignore[method-assign]  # and taken away


@contextlib.contextmanager
def _slow_backup(driver: QemuDriver, place: Path) -> Iterator[None]:
    """A snapshot, and a reader of its second disk."""
    with _snapshot(driver) as snapshot:
        over = threading.Event()
        reader = threading.Thread(target=_read_slowly, args=(snapshot.disks[1].urls[0], place, over))
        reader.start()
        try:
            yield
        finally:
            over.set()
            reader.join()


def _read_slowly(url: str, place: Path, over: threading.Event) -> None:
    disk = open_disk(url, host_for(place))
    buffer = memoryview(bytearray(MIB))
    for number in range(disk.size_bytes // MIB):
        disk.read_into(number * MIB, buffer)
        if over.wait(MIB / SLOW_BYTES_PER_S):
            break
    disk.close()


@contextlib.contextmanager
def _backup_without_fleecing(guest: Guest, place: Path) -> Iterator[None]:
    """QEMU's own full backup, straight to a slow target."""
    target = place / "target.raw"
    with target.open("wb") as file:
        file.truncate(DISK_BYTES)
    run = guest.monitor.run
    run("object-add", qom_type="throttle-group", id="slow", limits={"bps-write": SLOW_BYTES_PER_S})
    file_node = {"driver": "file", "filename": str(target)}
    run("blockdev-add", driver="throttle", node_name="slow-target", throttle_group="slow", file=file_node)
    run("blockdev-backup", job_id="plain", device="disk1", target="slow-target", sync="full")
    try:
        yield
    finally:
        with contextlib.suppress(AssertionError):  # it may be over
            run("block-job-cancel", device="plain", force=True)
        while run("query-jobs"):
            time.sleep(0.01)
        run("blockdev-del", node_name="slow-target")
        run("object-del", id="slow")
        target.unlink()


def _durable_write_s(guest: Guest, device: str) -> float:
    """Seconds of a write and the flush after it, each the first to its 64 KiB: old data is copied for every one."""
    one = f"dd if=/dev/zero of={device} bs={WRITE_BYTES} count=1 seek=$((8192 + number * 16)) conv=notrunc,fsync"
    script = f"number=0; while [ $number -lt {DURABLE} ]; do {one} 2>/dev/null; number=$((number + 1)); done"
    return _seconds_of(guest, script, DURABLE)


def _cached_write_s(guest: Guest, device: str) -> float:
    """Seconds of a write that the host's cache takes: one of sixteen has old data copied."""
    script = f"dd if=/dev/zero of={device} bs={WRITE_BYTES} count={WRITES} oflag=direct conv=notrunc 2>/dev/null"
    return _seconds_of(guest, script, WRITES)


def _seconds_of(guest: Guest, script: str, writes: int) -> float:
    """Seconds that QEMU spent on each of the guest's writes, flushes included."""

    def told() -> int:
        stats = next(each for each in guest.monitor.run("query-blockstats") if "dev-disk1" in each.get("qdev", ""))
        return int(stats["stats"]["wr_total_time_ns"] + stats["stats"]["flush_total_time_ns"])

    before = told()
    guest.agent.shell(script)
    return (told() - before) / writes / 1e9


if __name__ == "__main__":
    main()
