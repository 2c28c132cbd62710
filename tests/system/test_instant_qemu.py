"""`holdfast instant` on a server of kind `qemu`: a QEMU out of an encrypted repository, through kills of everybody."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.guest import saved
from lab.guest.monitors import Agent, Monitor
from lab.installation import CommandFailed, Installation, installed
from lab.instants import exporting, left_over, listed, served
from lab.qemu_vms import MIB, QemuVm
from lab.services import service
from lab.waiting import listens, wait_until

SIZE = 8 * MIB
NAME = "vm-instant"
RECORDS = "(n=0; until [ -e /stop ]; do n=$((n + 1)); echo $n; sync; done; touch /finished) >/records 2>&1 &"
READ_BACK = "touch /stop; until [ -e /finished ]; do usleep 10000; done; sync; echo 3 >/proc/sys/vm/drop_caches"


class House:
    """A point of the VM "vm", which is gone, and a server that runs others."""

    def __init__(self, house: Installation) -> None:
        self.house = house
        self.sockets = house.home / "sockets"
        self.restored = house.home / "restored"
        self.restored.mkdir()
        with QemuVm(self.sockets, {"root": ("qcow2", SIZE)}) as vm:
            vm.write("root", MIB, os.urandom(2 * MIB))
            places = (f"sockets={self.sockets}", f"scratch_dir={vm.scratch}", f"restore_dir={self.restored}")
            options = [word for place in places for word in ("--option", place)]
            house.holdfast("server", "add", "q", "--plugin", "qemu", *options)
            house.add_repository("main", encrypted=True)
            house.holdfast("job", "create", "nightly", "--server", "q", "--include", "vm", "--repository", "main")
            house.run_job("nightly")
            self.content = vm.content("root")
        for path in self.sockets.glob("*.qmp"):
            path.unlink()

    def start(self, *command: str) -> tuple[str, Running]:
        command = command or ("start", "--vm", "vm", "--point", "latest", "--server", "q")
        line = self.house.holdfast("instant", *command)["instant"]
        assert (line["state"], line["name"]) == ("serving", NAME)
        return str(line["session"]), Running(self.restored / NAME, self.content)

    def clear(self) -> None:
        """A VM of its own is its owner's, who removes it."""
        shutil.rmtree(self.restored / NAME)
        (self.sockets / f"{NAME}.qmp").unlink()

    @property
    def traces(self) -> list[object]:
        files = [*left_over(self.house), *self.restored.iterdir(), *self.sockets.glob("*.qmp")]
        return [*listed(self.house), *files]


class Running:
    """A VM that was started from a point; ``content``: what its disk holds."""

    owned: subprocess.Popen[bytes] | None = None

    def __init__(self, folder: Path, content: bytes | bytearray) -> None:
        self.folder = folder
        self.content = bytearray(content)
        self.monitor = Monitor(folder / "lab.qmp")
        told = self.monitor._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.process: int = struct.unpack("3i", told)[0]

    def write(self, offset: int, data: bytes) -> None:
        """By the guest's device, and durable; tried until its disk can be reached."""
        source = self.folder / "written"
        source.write_bytes(data)
        self.content[offset : offset + len(data)] = data

        def done() -> bool:
            device = "/machine/peripheral/root/virtio-backend"
            for each in (f"write -s {source} {offset} {len(data)}", "flush"):
                self.monitor.run("human-monitor-command", **{"command-line": f'qemu-io -d {device} "{each}"'})
            return self.read(offset, len(data)) == data

        wait_until(done, "the guest to have written it")
        source.unlink()

    def read(self, offset: int, length: int) -> bytes:
        """From where its disk is now."""
        place = self.place()
        if not place.startswith("nbd"):
            return (self.folder / place).read_bytes()[offset : offset + length]
        try:
            return served(place.partition("socket=")[2], "root", offset, length)
        except AssertionError:  # nobody serves it yet
            return b""

    def place(self) -> str:
        (told,) = (each["inserted"] for each in self.monitor.run("query-block") if "root" in each.get("qdev", ""))
        return str(told["image"]["filename"])

    def copies(self) -> list[Path]:
        return list(self.folder.glob("*.raw"))

    @classmethod
    def started(cls, vm: Running) -> Running:
        """By its own start file."""
        with (vm.folder / "again.log").open("wb") as log:
            owned = subprocess.Popen([vm.folder / "start"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: listens(vm.folder / "lab.qmp"), "QEMU to listen")
        again = cls(vm.folder, vm.content)
        again.owned = owned
        return again

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        self.monitor.close()
        if self.owned is not None:
            self.owned.wait(60)
        wait_until(lambda: not listens(self.folder / "lab.qmp"), "QEMU to end")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with installed(tmp_path_factory.mktemp("h")) as house:
        yield House(house)


def test_a_vm_runs_from_its_point_through_kills_and_moves_to_its_own_disks(house: House) -> None:
    number, vm = house.start()
    vm.write(5 * MIB, b"written" * 1000)
    house.house.kill_agent()
    house.house.start_agent()
    vm.write(6 * MIB, b"after a restart of the agent" * 100)
    vm.kill()
    again = Running.started(vm)  # by its owner; what was flushed is there
    assert (again.read(0, SIZE) == vm.content) is True
    report = house.house.holdfast("instant", "migrate", number)
    assert (report["kind"], report["result"]) == ("settle", "success")
    assert (listed(house.house), left_over(house.house)) == ([], [])
    assert not house.house.points("vm")[0]["held"]
    again.write(7 * MIB, b"on its own" * 100)
    assert (again.read(0, SIZE) == again.content) is True
    again.kill()
    last = Running.started(again)  # without any server
    assert (last.read(0, SIZE) == again.content) is True
    assert last.copies() == [last.folder / last.place()]
    last.kill()
    with pytest.raises(CommandFailed, match="exists already"):
        house.start()
    house.clear()


def test_a_manager_that_dies_leaves_a_vm_that_waits_for_its_disks(house: House) -> None:
    number, vm = house.start()
    vm.write(5 * MIB, b"kept" * 1000)
    house.house.kill_session(int(number))
    wait_until(lambda: listed(house.house)[0]["state"] == "interrupted", "the session to be told interrupted")
    wait_until(lambda: not list(house.house.home.glob("agent/exports/*/*/nbd.sock")), "the end of the exports")
    with pytest.raises(CommandFailed, match="resume"):
        house.house.holdfast("instant", "migrate", number)
    with service(house.house):  # which begins another session, at the same address
        wait_until(lambda: listed(house.house)[0]["state"] == "serving", "the export to serve again")
        (line,) = listed(house.house)
        assert (line["after"], line["session"] > int(number)) == (int(number), True)
        vm.write(6 * MIB, b"and on" * 1000)
        assert (vm.read(0, SIZE) == vm.content) is True
        vm.monitor.close()
        report = house.house.holdfast("instant", "stop", str(line["session"]))
        assert report["result"] == "success"
    assert house.traces == []


def test_a_migration_that_dies_is_cleared_up_by_the_next(house: House) -> None:
    """kill -9 in its midst: the VM goes on, what was copied goes, and the second one succeeds."""
    number, vm = house.start()
    exporter = exporting(house.house)
    os.kill(exporter, signal.SIGSTOP)  # so that the copy cannot end
    session = house.house.holdfast("instant", "migrate", number, "--detach")["session"]
    wait_until(lambda: bool(vm.copies()), "a copy")
    (torn,) = vm.copies()
    house.house.kill_session(int(session))
    os.kill(exporter, signal.SIGCONT)
    vm.write(5 * MIB, b"goes on" * 100)
    report = house.house.holdfast("instant", "migrate", number)
    assert report["result"] == "success"
    assert (torn.exists(), len(vm.copies())) == (False, 1)
    assert (listed(house.house), left_over(house.house)) == ([], [])
    assert (vm.read(0, SIZE) == vm.content) is True
    vm.kill()
    house.clear()


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_a_guest_is_paused_while_nobody_serves_its_disk_and_hears_of_no_error(tmp_path: Path) -> None:
    """A real one that writes, while the agent dies, and its manager's session after it; the service resumes both."""
    with installed(tmp_path / "h") as house:
        sockets, restored = house.home / "sockets", house.home / "restored"
        for folder in (sockets, restored, house.home / "scratch"):
            folder.mkdir()
        options = {"sockets": sockets, "scratch_dir": house.home / "scratch", "restore_dir": restored}
        told = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
        house.holdfast("server", "add", "q", "--plugin", "qemu", *told)
        house.add_repository("main", encrypted=True)
        house.holdfast("job", "create", "nightly", "--server", "q", "--include", "vm", "--repository", "main")
        with saved().resume(tmp_path, "qcow2") as original:
            (sockets / "vm.qmp").symlink_to(original.qmp)
            house.run_job("nightly")
        (sockets / "vm.qmp").unlink()
        started = ("start", "--vm", "vm", "--point", "latest", "--server", "q")
        number = house.holdfast("instant", *started)["instant"]["session"]
        monitor, guest = Monitor(restored / NAME / "lab.qmp"), Agent(restored / NAME / "qga")

        def state() -> str:
            return str(monitor.run("query-status")["status"])

        guest.ping(120)
        guest.shell(RECORDS)
        house.kill_agent()
        wait_until(lambda: state() == "io-error", "the guest to be stopped by the error")
        house.kill_session(int(number))
        wait_until(lambda: state() == "io-error", "the guest to be stopped by the error")
        house.start_agent()
        with service(house):
            wait_until(lambda: listed(house)[0]["state"] == "serving", "the export to serve again")
            wait_until(lambda: state() == "running", "the guest to go on")
            guest.shell(READ_BACK)
            records = guest.read("/records").decode().split()
            assert records and records == [str(number) for number in range(1, len(records) + 1)]
            assert "I/O error" not in guest.shell("dmesg")
            monitor.close()
            assert house.holdfast("instant", "stop", str(listed(house)[0]["session"]))["result"] == "success"
        assert [*listed(house), *left_over(house), *restored.iterdir(), *sockets.iterdir()] == []
