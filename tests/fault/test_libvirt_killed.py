"""kill -9 of a process that takes snapshots over libvirt, at many moments: the next one clears up and is right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from lab.libvirt_backups import DrivenBackups
from lab.libvirt_host import LibvirtHost, libvirt_daemon

CHILD = """
import json, sys
from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver, LibvirtOptions

class Journal:
    def promise(self, kind, data):
        print(json.dumps({"kind": kind, "data": data}), flush=True)
        return 1
    def strike(self, number):
        print("struck", flush=True)

driver = LibvirtDriver(LibvirtOptions(**json.loads(sys.argv[1])), {})
driver.connect()
print("ready", flush=True)
committed, base = True, {}
while True:
    request = SnapshotRequest(VmRef(sys.argv[2], "guest"), "test", ("vda", "vdb"), series="one", since=base)
    snapshot = driver.create_snapshot(request, Journal())
    driver.remove_snapshot(snapshot, committed, Journal())
    if committed:
        base = {disk.disk_id: disk.change_id for disk in snapshot.disks if disk.change_id}
    committed = not committed
"""
ROUNDS = 4
MIB = 1 << 20


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as made:
        yield made


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_killed_process_leaves_nothing_that_the_next_does_not_clear(host: LibvirtHost, image_format: str) -> None:
    chance = Random(5)
    vm = host.vm("guest", {"vda": (image_format, MIB), "vdb": (image_format, MIB)}).start()
    caught = 0
    for _ in range(ROUNDS):
        opened = run_and_kill(host, vm.uuid, chance.randrange(1, 6), chance.random() * 0.4)
        caught += bool(opened)
        vm.scribble(chance, 5)
        backups = DrivenBackups(vm)
        for _ in range(2):
            for obligation in opened:
                backups.driver.fulfil(obligation["kind"], obligation["data"])
        assert not list(host.scratch.iterdir())
        assert not vm.monitor("query-jobs") and not vm.monitor("query-block-exports")
        assert ".overlay" not in vm.domain.XMLDesc() + vm.domain.XMLDesc(2)
        backups.run()
        backups.close()
        assert len(vm.checkpoints()) == (1 if image_format == "qcow2" else 0)
    assert caught, "no round was killed in mid-snapshot: the test proves nothing"
    host.clear()


def run_and_kill(host: LibvirtHost, vm: str, after_lines: int, wait_s: float) -> list[dict[str, Any]]:
    """Run the child until it has written some lines and a little longer; returns the promises it had not struck off."""
    command = [sys.executable, "-c", CHILD, json.dumps(host.options()), vm]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        lines = [child.stdout.readline() for _ in range(after_lines)]
        try:
            child.wait(wait_s)
        except subprocess.TimeoutExpired:
            child.kill()
        lines += child.stdout.readlines()
    opened: list[dict[str, Any]] = []
    for line in filter(str.strip, lines):
        opened = [] if line.strip() == "struck" else [json.loads(line)]
    return opened
