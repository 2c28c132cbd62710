"""vSphere: disks over HTTPS beside curl, and the inventory beside reading it object by object, on a simulated vCenter.

Disks are files in the page cache, read to nowhere, ours and curl's in turn; the server, govmomi's simulator, shares the
machine. Wanted: 0.7 of curl's rate with parallel ranges, and a twentieth of the time for the inventory.

Besides, what an incremental of 1 % reads and stores: scattered runs of 64 KiB, told by changed-block tracking.
"""

from __future__ import annotations

import argparse
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import msgspec
import results

from holdfast_agent.disks.open import open_disk
from holdfast_plugins.api import Snapshot, SnapshotDisk, SnapshotRequest
from holdfast_plugins.hypervisors.vsphere import VsphereDriver
from holdfast_plugins.testkit import MemoryJournal
from lab.disks import host_for
from lab.tools import require_tool
from lab.vcenter import NAME, VCenter, vcenter
from lab.vsphere_backups import connected, service_of
from lab.vsphere_house import vsphere_house

MIB = 1 << 20
PIECE_BYTES = 16 * MIB
RUN_BYTES = 64 << 10
WANTED_OF_CURL, WANTED_RATIO = 0.7, 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--vms", type=int, default=1040)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with vcenter() as center:
        rows = read_disk(center, arguments.size_mib, arguments.rounds)
        changed = back_up_change(center, arguments.size_mib)
        inventory = read_inventory(center, arguments.vms)
    found = {
        "size_mib": arguments.size_mib,
        "vms": arguments.vms,
        "https": rows,
        "changed": changed,
        "inventory": inventory,
    }
    results.write("vsphere", found)
    parallel = [row["ratio"] for row in rows if row["threads"] > 1]  # a mover has two threads at least
    good = min(parallel) >= WANTED_OF_CURL and inventory["ratio"] >= WANTED_RATIO
    return 0 if good else 1


# --- disks ------------------------------------------------------------------------------------------------------------


def read_disk(center: VCenter, size_mib: int, rounds: int) -> list[dict[str, float]]:
    """MiB/s for one, two and four threads, ours and curl's."""
    require_tool("curl", "curl")
    vm = center.create("disk", [size_mib * MIB])
    for at in range(0, size_mib * MIB, PIECE_BYTES):
        center.write(vm, 0, [(at, secrets.token_bytes(min(PIECE_BYTES, size_mib * MIB - at)))])
    journal, rows = MemoryJournal(), []
    print(f"{'https':<12}{'threads':>9}{'ours':>9}{'curl':>9}  MiB/s   ratio (wanted {WANTED_OF_CURL})")
    with connected(center) as driver, tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        snapshot = snapshot_of(driver, "disk", journal)
        for threads in (1, 2, 4):
            pairs = [
                (ours(center, snapshot.disks[0], threads, Path(folder)), curl(center, snapshot.disks[0], threads))
                for _ in range(rounds)
            ]
            mine, theirs = (size_mib / statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append({"threads": threads, "ours": mine, "curl": theirs, "ratio": mine / theirs})
            print(f"{'':<12}{threads:>9}{mine:>9,.0f}{theirs:>9,.0f}{mine / theirs:>14.2f}", flush=True)
        driver.remove_snapshot(snapshot, True, journal)
    return rows


def snapshot_of(driver: VsphereDriver, name: str, journal: MemoryJournal) -> Snapshot:
    ref = next(each for each in driver.list_vms() if each.name == name)
    return driver.create_snapshot(SnapshotRequest(ref, "benchmark", ("scsi0:0",)), journal)


def ours(center: VCenter, disk: SnapshotDisk, threads: int, folder: Path) -> float:
    """Seconds for the whole disk in blocks of 1 MiB, each thread the next one, with the session's cookie."""
    host = msgspec.structs.replace(host_for(folder, center.origin), workers=threads)
    with closing(open_disk(disk.urls[0], host, disk.access)) as opened:
        offsets = iter(range(0, opened.size_bytes, MIB))

        def read(_thread: int) -> None:
            view = memoryview(bytearray(MIB))
            for offset in offsets:  # next() of a range's iterator is atomic
                opened.read_into(offset, view[: min(MIB, opened.size_bytes - offset)])

        return seconds(lambda: list(map_all(read, threads)))


def map_all(work: Callable[[int], None], threads: int) -> list[None]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads)))


def curl(center: VCenter, disk: SnapshotDisk, threads: int) -> float:
    """Seconds for the same, one range for each thread."""
    url = disk.urls[0].replace(center.host, NAME, 1)  # the name that stands in the certificate
    part = -(-disk.size_bytes // threads)
    common = ["--silent", "--cacert", str(center.certificates.ca), "--resolve", f"{NAME}:{center.port}:{center.host}"]
    common += ["--user", f"{center.user}:{center.password}", "--output", "/dev/null", "--fail", url]
    command = ["curl", "--parallel"]
    for number in range(threads):
        command += ["--next"] if number else []
        command += ["--range", f"{number * part}-{min((number + 1) * part, disk.size_bytes) - 1}", *common]
    return seconds(lambda: subprocess.run(command, check=True))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- incrementals -----------------------------------------------------------------------------------------------------


def back_up_change(center: VCenter, size_mib: int) -> list[dict[str, Any]]:
    """MiB read and stored by a full and by an incremental of 1 %, with blocks of 1 MiB and of 64 KiB."""
    vm = center.create("changing", [size_mib * MIB])
    for at in range(0, size_mib * MIB, PIECE_BYTES):
        center.write(vm, 0, [(at, secrets.token_bytes(min(PIECE_BYTES, size_mib * MIB - at)))])
    runs = random.Random(1).sample(range(size_mib * MIB // RUN_BYTES), size_mib * MIB // 100 // RUN_BYTES)
    rows = []
    print(f"\n{'changed':<12}{'block':>9}{'read':>9}{'stored':>9}  MiB {'took':>8}")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder, vsphere_house(Path(folder), center) as house:
        for block in ("1 MiB", "64 KiB"):
            job = f"blocks-of-{block.replace(' ', '')}"
            house.add_vsphere_job(job, "changing", "--block-size", block)
            for what, changed in (("all", []), (f"{len(runs) * RUN_BYTES / MIB:.1f} MiB", runs)):
                center.write(vm, 0, [(run * RUN_BYTES, secrets.token_bytes(RUN_BYTES)) for run in sorted(changed)])
                began = time.perf_counter()
                total = house.run_job(job)["total"]
                row = {"read": total["read_bytes"] / MIB, "stored": total["stored_bytes"] / MIB}
                rows.append({"block": block, "changed": what, **row, "took_s": time.perf_counter() - began})
                print(f"{what:<12}{block:>9}{row['read']:>9,.1f}{row['stored']:>9,.1f}{rows[-1]['took_s']:>11.2f} s")
    return rows


# --- inventory --------------------------------------------------------------------------------------------------------


def read_inventory(center: VCenter, vms: int) -> dict[str, float]:
    """Seconds for all VMs: the first load, what is asked from then on, and object by object."""
    for number in range(len(center.state()["machines"]), vms):
        center.create(f"vm{number:04}", [MIB], host=number % 2, datastore=number % 2, off=True)
    with connected(center) as driver:
        first = seconds(driver.list_vms)
        again = statistics.median(seconds(driver.list_vms) for _ in range(9))
        assert len(driver.list_vms()) == vms
    with service_of(center) as service:
        one_by_one = seconds(lambda: read_objects(service))
    print(f"\ninventory of {vms} VMs: {first:.2f} s, from then on {again * 1000:.0f} ms")
    print(f"object by object: {one_by_one:.1f} s; ratio {one_by_one / first:.0f} (wanted {WANTED_RATIO:.0f})")
    return {"first_s": first, "again_s": again, "one_by_one_s": one_by_one, "ratio": one_by_one / first}


def read_objects(service: Any) -> list[list[Any]]:
    """The same facts as the inventory has of VMs, as scripts ask pyvmomi for them: a request for each."""
    from pyVmomi import vim

    content = service.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    found = []
    for vm in view.view:
        found.append([vm.name, vm.parent, vm.resourcePool, vm.datastore, vm.runtime.host, vm.runtime.powerState])
        found[-1] += [vm.config.instanceUuid, vm.config.template, vm.config.files.vmPathName]
    view.Destroy()
    return found


if __name__ == "__main__":
    sys.exit(main())
