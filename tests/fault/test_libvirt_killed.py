"""kill -9 of a process that takes snapshots over libvirt, at many moments: the next one clears up and is right."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver, LibvirtOptions, LibvirtSnapshotOptions, Method
from holdfast_plugins.hypervisors.libvirt.connection import Connection
from holdfast_plugins.testkit import MemoryJournal
from lab.libvirt_backups import DrivenBackups
from lab.libvirt_host import LibvirtHost, libvirt_daemon

CHILD = """
import json, sys
from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver, LibvirtOptions, LibvirtSnapshotOptions, Method

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


class SuddenDeath(BaseException):
    """Stands for kill -9 of the process."""


class Fate:
    """Lets a process make so many calls of libvirt and no more, whatever it then tries to clean up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        real = Connection.call

        def call(connection: Connection, *arguments: Any, **named: Any) -> Any:
            if self.left is not None:
                if self.left == 0:
                    raise SuddenDeath
                self.left -= 1
            return real(connection, *arguments, **named)

        monkeypatch.setattr(Connection, "call", call)


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Fate:
    return Fate(monkeypatch)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_death_at_a_fifth_of_the_calls(host: LibvirtHost, fate: Fate, image_format: str) -> None:
    die_at_calls(host, fate, image_format, itertools.count(0, 5))


@pytest.mark.soak
@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_death_at_every_call(host: LibvirtHost, fate: Fate, image_format: str) -> None:
    die_at_calls(host, fate, image_format, itertools.count())


@pytest.mark.soak
def test_death_at_every_call_to_another_host(host: LibvirtHost, fate: Fate) -> None:
    by_overlays = LibvirtSnapshotOptions(method=Method.SNAPSHOT)
    die_at_calls(host, fate, "raw", itertools.count(), by_overlays, uri=host.remote_uri)


def die_at_calls(
    host: LibvirtHost,
    fate: Fate,
    image_format: str,
    numbers: Iterator[int],
    options: LibvirtSnapshotOptions | None = None,
    **connection: str,
) -> None:
    """From the snapshot's first call to the last of its removal; what is left is for the next one to clear up."""
    host.clear()
    chance, vm = Random(7), host.vm("guest", {"vda": (image_format, MIB), "vdb": (image_format, MIB)}).start()
    request = SnapshotRequest(VmRef(vm.uuid, "guest"), "test", ("vda", "vdb"), options, series="one")
    backups = DrivenBackups(vm, **connection)
    backups.run()
    for survived in numbers:
        vm.scribble(chance, 2)
        driver, journal = LibvirtDriver(LibvirtOptions(**host.options(**connection)), {}), MemoryJournal()
        driver.connect()
        fate.left = survived
        try:
            driver.remove_snapshot(driver.create_snapshot(request, journal), survived % 2 == 0, journal)
        except SuddenDeath:
            pass
        else:
            break
        finally:
            fate.left = None
            driver.close()
        vm.scribble(chance, 2)
        for obligation in [*reversed(journal.open.values())] * 2:
            backups.driver.fulfil(obligation.kind, obligation.data)
        assert not list(host.scratch.iterdir()), f"something is left after death at call {survived}"
        assert not vm.monitor("query-jobs") and not vm.monitor("query-block-exports")
        assert ".overlay" not in vm.domain.XMLDesc() + vm.domain.XMLDesc(2)
        assert all(vm.read_image(target) == content for target, content in vm.content.items())
    assert survived > 10, "a snapshot of two disks takes more calls than that"
    backups.run()
    backups.run()
    assert len(vm.checkpoints()) == (1 if image_format == "qcow2" else 0), "those of points that never were are gone"
    backups.close()
