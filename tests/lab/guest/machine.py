"""A guest that runs under QEMU's software emulation, which every machine has."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.ports import free_port
from lab.tools import require_tool

from .image import KERNEL_ARGUMENTS, LABEL, Image
from .monitors import Agent, Monitor

Format = Literal["raw", "qcow2"]
Bus = Literal["virtio-blk", "virtio-scsi"]
_STOP_S = 60.0


@dataclass(frozen=True)
class Disk:
    """A disk of a guest. In QEMU its node is ``NAME``, its device ``dev-NAME`` and its serial number ``NAME``.

    ``export``: of this name on the NBD server whose socket ``path`` is, which QEMU connects to again when it is lost.
    """

    path: Path
    format: Format = "raw"
    bus: Bus = "virtio-blk"
    name: str = ""
    export: str = ""


@dataclass(frozen=True)
class Hardware:
    """What a guest has besides disks. ``network``: user-mode, with SSH on a port of loopback; ``spare_slots``: for
    disks that are added while it runs; ``display``: a VGA card, for pictures of the screen."""

    network: bool = False
    spare_slots: int = 0
    display: bool = False
    memory_mib: int = 192


class Guest:
    """A running guest. ``monitor`` is the lab's own; ``qmp`` is another socket of QEMU's, for what is tested."""

    def __init__(self, image: Image, folder: Path, disks: Sequence[Disk], process: subprocess.Popen[bytes]) -> None:
        self.image = image
        self.folder = folder
        self.disks = tuple(disks)
        self.process = process
        self.ssh_port = 0
        self.qmp = folder / "qmp"
        self.agent = Agent(folder / "qga")
        self.monitor = self._connect()

    @property
    def serial(self) -> str:
        """What came on the serial console so far."""
        return (self.folder / "serial.log").read_text(errors="replace")

    @property
    def told(self) -> str:
        """What came on the second serial port, which nobody keeps open: who closes it waits until all is out."""
        return (self.folder / "told.log").read_text(errors="replace")

    def wait_up(self, timeout_s: float = 60.0) -> None:
        """Return when the guest has booted, which is when its agent answers."""
        try:
            self.agent.ping(timeout_s)
        except TimeoutError as error:
            raise AssertionError(f"the guest does not come up; its console: {self.serial[-2000:]}") from error

    def ssh(self, script: str, timeout_s: float = 60.0) -> str:
        """Run a script as root by SSH, which works while the guest is frozen, too; what it printed. It must succeed.

        Only where the hardware has a network.
        """
        known = self.folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{self.ssh_port} {self.image.host_key}\n")
        command = [require_tool("ssh", "openssh-client"), "-T", "-i", str(self.image.key), "-p", str(self.ssh_port)]
        command += ["-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes"]
        done = subprocess.run(
            [*command, "root@127.0.0.1", script], check=False, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def power_off(self) -> None:
        """Let the guest shut down in order, as its power button does, and wait for QEMU's end."""
        self.monitor.run("system_powerdown")
        self.process.wait(_STOP_S)
        self.monitor.close()

    def kill(self) -> None:
        """Take QEMU away, as a crash of its host does. Nothing happens when it has ended already."""
        self.process.kill()
        self.process.wait()
        self.monitor.close()

    def save(self, state: Path) -> None:
        """Write memory and devices to ``state`` and end QEMU; the disks stay as they are at that moment."""
        self.monitor.run("stop")
        self.monitor.run("migrate", uri=f"exec:cat > {shlex.quote(str(state))}")
        while (status := self.monitor.run("query-migrate")["status"]) != "completed":
            assert status in ("setup", "active", "device"), status
            time.sleep(0.02)
        self.monitor.run("quit")
        self.process.wait(_STOP_S)
        self.monitor.close()

    def _connect(self) -> Monitor:
        """Wait for QEMU to listen, after which all of its sockets are there."""
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return Monitor(self.folder / "lab.qmp")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.01)
                raise AssertionError(f"qemu ended: {(self.folder / 'qemu.log').read_text()}")


@contextlib.contextmanager
def start(
    image: Image, folder: Path, disks: Sequence[Disk], hardware: Hardware | None = None,
    boot: Literal["kernel", "disk"] = "kernel", state: Path | None = None,
) -> Iterator[Guest]:  # fmt: skip
    """A guest with its sockets and logs in ``folder``; it is killed in the end if it still runs.

    The first disk holds the root; QEMU loads the kernel itself, or the first disk's boot loader does. ``state`` is what
    a guest with the same hardware and kinds of disks saved: it goes on there, paused. QEMU ends with the thread that
    called this.
    """
    hardware = hardware or Hardware()
    ssh_port = free_port() if hardware.network else 0
    command = _command(image, folder, disks, hardware, boot, ssh_port)
    for left in ("qmp", "lab.qmp", "qga"):
        (folder / left).unlink(missing_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context((folder / "qemu.log").open("wb"))
        descriptors = []
        if state is not None:
            descriptors = [stack.enter_context(state.open("rb")).fileno()]
            command += ["-incoming", f"fd:{descriptors[0]}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=descriptors)
        stack.callback(process.wait)
        stack.callback(process.kill)
        guest = Guest(image, folder, disks, process)
        stack.callback(guest.monitor.close)
        guest.ssh_port = ssh_port
        if state is not None:
            guest.monitor.wait_incoming()
        yield guest


def _place(disk: Disk) -> str:
    if not disk.export:
        return f"file.driver=file,file.filename={disk.path}"
    server = f"file.driver=nbd,file.server.type=unix,file.server.path={disk.path}"
    return f"{server},file.export={disk.export},file.reconnect-delay=60"


def _command(
    image: Image, folder: Path, disks: Sequence[Disk], hardware: Hardware, boot: str, ssh_port: int
) -> list[str]:
    command = [
        require_tool("setpriv", "util-linux"), "--pdeathsig", "KILL",
        require_tool("qemu-system-x86_64", "qemu-system-x86"),
        "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=multi",
        "-m", str(hardware.memory_mib), "-vga", "std" if hardware.display else "none", "-display", "none",
        "-qmp", f"unix:{folder}/qmp,server=on,wait=off", "-qmp", f"unix:{folder}/lab.qmp,server=on,wait=off",
        "-chardev", f"file,id=serial,path={folder}/serial.log", "-serial", "chardev:serial",
        "-chardev", f"file,id=told,path={folder}/told.log", "-serial", "chardev:told",
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=qga,path={folder}/qga,server=on,wait=off",
        "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0", "-device", "virtio-rng-pci",
    ]  # fmt: skip
    if boot == "kernel":
        command += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
        command += ["-append", f"root=LABEL={LABEL} {KERNEL_ARGUMENTS}"]
    if hardware.network:
        command += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"]
        command += ["-device", "virtio-net-pci,netdev=net,romfile="]
    else:
        command += ["-nic", "none"]
    for number in range(hardware.spare_slots):
        command += ["-device", f"pcie-root-port,id=slot{number},chassis={number + 1},slot={number + 1}"]
    if any(disk.bus == "virtio-scsi" for disk in disks):
        command += ["-device", "virtio-scsi-pci,id=scsi"]
    for number, disk in enumerate(disks):
        name = disk.name or f"disk{number}"
        command += [
            "-blockdev",
            f"driver={disk.format},node-name={name},discard=unmap,file.node-name={name}-file,file.discard=unmap,"
            + _place(disk),
        ]
        device = "virtio-blk-pci" if disk.bus == "virtio-blk" else "scsi-hd,bus=scsi.0"
        command += ["-device", f"{device},drive={name},id=dev-{name},serial={name},bootindex={number + 1}"]
    return command
