"""`holdfast instant` as people use it: a VM out of an encrypted repository, through crashes, to disks of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from lab.installation import CommandFailed, Installation, installed
from lab.instants import exporting, left_over, listed, served
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon
from lab.waiting import wait_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as host:
        yield host


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, host: LibvirtHost) -> Iterator[Installation]:
    """A point of the VM "web" of libvirt, which is gone."""
    with installed(tmp_path_factory.mktemp("h")) as house:
        vm = host.vm("web", {"vda": ("qcow2", 8 * MIB)}).start()
        vm.write("vda", MIB, os.urandom(2 * MIB))
        for folder in ("scratch", "images"):
            (house.home / folder).mkdir()
        places = (f"scratch_dir={house.home}/scratch", f"restore_dir={house.home}/images", f"uri={host.uri}")
        options = [word for place in places for word in ("--option", place)]
        house.holdfast("server", "add", "kvm", "--plugin", "libvirt", *options)
        house.add_repository("main", encrypted=True)
        house.holdfast("job", "create", "nightly", "--server", "kvm", "--include", "web", "--repository", "main")
        house.run_job("nightly")
        house.content = bytes(vm.content["vda"])  # type: ignore[attr-defined]  # for the tests below
        vm.stop()
        yield house


def started(house: Installation, host: LibvirtHost, *command: str) -> tuple[str, LibvirtVm]:
    line = house.holdfast("instant", *command)["instant"]
    assert (line["state"], line["name"]) == ("serving", "web-instant")
    content: bytes = house.content  # type: ignore[attr-defined]  # see `house`
    return str(line["session"]), LibvirtVm.found(host, "web-instant", {"vda": content})


def socket_of(vm: LibvirtVm) -> str:
    return vm.domain.XMLDesc().split("socket='")[1].split("'")[0]


def write_again(vm: LibvirtVm, offset: int, data: bytes) -> None:
    """QEMU's own writes, unlike its guest's, are told of the first error, and are not tried again."""

    def reaches() -> bool:
        try:
            vm.write("vda", offset, data)
            return served(socket_of(vm), "vda", offset, len(data)) == data
        except AssertionError:  # nobody serves it yet
            return False

    wait_until(reaches, "the session to get there")


def start(house: Installation, host: LibvirtHost) -> tuple[str, LibvirtVm]:
    return started(house, host, "start", "--vm", "web", "--point", "latest", "--server", "kvm")


def test_a_vm_runs_from_its_point_through_restarts_and_moves_to_its_own_disks(
    house: Installation, host: LibvirtHost
) -> None:
    number, vm = start(house, host)
    vm.write("vda", 5 * MIB, b"written" * 1000)
    vm._io("vda", "flush")
    house.kill_agent()
    house.start_agent()
    write_again(vm, 6 * MIB, b"after a restart of the agent" * 100)
    report = house.holdfast("instant", "migrate", number)
    assert (report["kind"], report["result"]) == ("settle", "success")
    assert (listed(house), left_over(house)) == ([], [])
    assert not house.points("web")[0]["held"]
    vm.write("vda", 7 * MIB, b"on its own" * 100)
    assert (vm.read_image("vda") == vm.content["vda"]) is True
    vm.stop()
    vm.domain.undefine()


def test_a_manager_that_dies_leaves_a_vm_that_waits_for_its_disks(house: Installation, host: LibvirtHost) -> None:
    number, vm = start(house, host)
    vm.write("vda", 5 * MIB, b"kept" * 1000)
    vm._io("vda", "flush")
    house.kill_session(int(number))
    wait_until(lambda: listed(house)[0]["state"] == "interrupted", "the session to be told interrupted")
    wait_until(lambda: not list(house.home.glob("agent/exports/*/*/nbd.sock")), "the end of the exports")
    with pytest.raises(CommandFailed, match="resume"):
        house.holdfast("instant", "migrate", number)
    second, again = started(house, host, "resume", number)
    assert again.uuid == vm.uuid, "the same VM goes on"
    write_again(vm, 6 * MIB, b"and on" * 1000)
    assert served(socket_of(vm), "vda", 0, 8 * MIB) == bytes(vm.content["vda"])
    report = house.holdfast("instant", "stop", second)
    assert report["result"] == "success"
    assert (listed(house), left_over(house)) == ([], [])
    assert [domain.name() for domain in host.raw.listAllDomains()] == ["web"]


def test_a_migration_that_dies_is_cleared_up_by_the_next(house: Installation, host: LibvirtHost) -> None:
    """kill -9 in its midst: the VM goes on, what was copied goes, and the second one succeeds."""
    number, vm = start(house, host)
    copies = house.home / "images"
    before = set(copies.iterdir())
    exporter = exporting(house)
    os.kill(exporter, signal.SIGSTOP)  # so that the copy cannot end
    session = house.holdfast("instant", "migrate", number, "--detach")["session"]
    wait_until(lambda: bool(set(copies.iterdir()) - before), "a copy")
    (torn,) = set(copies.iterdir()) - before
    house.kill_session(int(session))
    os.kill(exporter, signal.SIGCONT)
    write_again(vm, 5 * MIB, b"goes on" * 100)
    report = house.holdfast("instant", "migrate", number)
    assert report["result"] == "success"
    assert (torn.exists(), len(set(copies.iterdir()) - before)) == (False, 1)
    assert (listed(house), left_over(house)) == ([], [])
    assert (vm.read_image("vda") == vm.content["vda"]) is True
    vm.stop()
    vm.domain.undefine()


def test_what_is_not_possible_is_told(house: Installation, host: LibvirtHost) -> None:
    with pytest.raises(CommandFailed, match="cannot run from a restore point"):
        house.holdfast("instant", "start", "--vm", "web", "--point", "latest", "--server", "lab")
    with pytest.raises(CommandFailed, match="exists already"):
        house.holdfast("instant", "start", "--vm", "web", "--point", "latest", "--server", "kvm", "--name", "web")
    with pytest.raises(CommandFailed, match="no instant recovery"):
        house.holdfast("instant", "stop", "1")
    wait_until(lambda: left_over(house) == [], "no folder to be left")
    assert listed(house) == []
