"""A virtual machine for a boot proof: no network, nothing of the host but the socket of an export, and limits."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import msgspec

from holdfast_agent.errors import BootNotProven, ToolMissing
from holdfast_agent.model.boot import BootBus, BootFirmware
from holdfast_agent.wire.specs import BootSpec

from .lines import READS_AT_ONCE, JsonLines

QEMU = "qemu-system-x86_64"
_UEFI = "/usr/share/ovmf/OVMF.fd"
_START_S = 30.0
_SERIAL_BYTES = 256 << 10
_CONTROLLERS = {BootBus.VIRTIO: (), BootBus.SCSI: ("-device", "virtio-scsi-pci,id=scsi"), BootBus.SATA: ()}


class Machine:
    """A running QEMU; ended by :meth:`close`. One thread."""

    def __init__(self, spec: BootSpec, sockets: dict[str, Path], folder: Path, agent: str) -> None:
        """Start it. ``sockets``: of the export, by disk. ``folder``: for its own. ``agent``: this host, for people.

        Raises :class:`ToolMissing`, :class:`BootNotProven` if QEMU ends at once.
        """
        self.console = bytearray()
        self._log = (folder / "qemu.log").open("wb")
        command = _command(spec, sockets, folder, agent)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        self._folder = folder
        self._serial: socket.socket | None = None
        self._monitor: JsonLines | None = None
        try:
            self._monitor = self._connect(folder / "qmp")
            self.guest_agent = self._connect(folder / "qga")
            self._serial = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._serial.connect(str(folder / "serial"))
            self._serial.setblocking(False)
            self._monitor.send({"execute": "qmp_capabilities"})
            self._monitor.send({"execute": "cont"})
        except BaseException:
            self.close()
            raise

    @property
    def fds(self) -> tuple[int, ...]:
        """To wait on."""
        assert self._serial is not None and self._monitor is not None  # noqa: S101 - connected by the constructor
        return self._serial.fileno(), self._monitor.fileno(), self.guest_agent.fileno()

    def look(self) -> str:
        """Take what has come; why the machine can no longer come up, or ""."""
        if self._serial is not None:
            with contextlib.suppress(OSError):
                for _ in range(READS_AT_ONCE):
                    self.console += self._serial.recv(64 << 10)
                    del self.console[:-_SERIAL_BYTES]
        for message in self._monitor.take() if self._monitor is not None else ():
            if message.get("event") in ("SHUTDOWN", "GUEST_PANICKED"):
                return "the guest panicked" if message["event"] == "GUEST_PANICKED" else "the guest shut down"
        if self._process.poll() is not None:
            return f"QEMU ended: {self._complaint()}"
        return ""

    def screenshot(self, timeout_s: float, most_bytes: int) -> bytes:
        """What its screen shows, as PNG; empty where that cannot be had in time."""
        picture = self._folder / "screen.png"
        if self._monitor is None or self._process.poll() is not None:
            return b""
        arguments = {"filename": str(picture), "format": "png"}
        self._monitor.send({"execute": "screendump", "arguments": arguments, "id": "screen"})
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for message in self._monitor.take():
                if message.get("id") == "screen":
                    data = picture.read_bytes() if "return" in message and picture.exists() else b""
                    return data if len(data) <= most_bytes else b""
            time.sleep(0.05)
        return b""

    def close(self) -> None:
        """End it at once: what it wrote goes with the export. Idempotent, never raises."""
        self._process.kill()
        self._process.wait()
        for each in (self._monitor, getattr(self, "guest_agent", None), self._serial):
            if each is not None:
                each.close()
        self._log.close()

    def _connect(self, path: Path) -> JsonLines:
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError):
                return JsonLines(path)
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BootNotProven(reason=f"QEMU did not start: {self._complaint()}")
            time.sleep(0.02)

    def _complaint(self) -> str:
        text = (self._folder / "qemu.log").read_text(errors="replace").strip()
        return " ".join(text.split())[-500:] or f"exit code {self._process.poll()}"


def _command(spec: BootSpec, sockets: dict[str, Path], folder: Path, agent: str) -> list[str]:
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise ToolMissing(tool=QEMU, host=agent, package="qemu-system-x86")
    command = [
        qemu, "-nodefaults", "-no-user-config", "-machine", "q35",
        *(() if spec.emulate else ("-accel", "kvm")), "-accel", "tcg",
        "-m", str(spec.memory_mib), "-smp", str(spec.cpus), "-nic", "none", "-display", "none", "-vga", "std",
        "-no-reboot", "-S", "-msg", "timestamp=off",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-qmp", f"unix:{_option(folder / 'qmp')},server=on,wait=off",
        "-chardev", f"socket,id=serial,path={_option(folder / 'serial')},server=on,wait=off",
        "-serial", "chardev:serial", "-device", "virtio-serial-pci", "-device", "virtio-rng-pci",
        "-chardev", f"socket,id=qga,path={_option(folder / 'qga')},server=on,wait=off",
        "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
        *_CONTROLLERS[spec.bus],
    ]  # fmt: skip
    if spec.firmware is BootFirmware.UEFI:
        if not os.access(_UEFI, os.R_OK):
            raise ToolMissing(tool="the UEFI firmware OVMF", host=agent, package="ovmf")
        command += ["-bios", _UEFI]
    for number, (name, path) in enumerate(sockets.items()):
        server = {"type": "unix", "path": str(path)}
        file = {"driver": "nbd", "server": server, "export": name, "reconnect-delay": 30}
        node = {"driver": "raw", "node-name": f"disk{number}", "file": file, "discard": "unmap"}
        command += ["-blockdev", msgspec.json.encode(node).decode()]
        command += ["-device", f"{_device(spec.bus, number)},drive=disk{number},bootindex={number + 1}"]
    return command


def _device(bus: BootBus, number: int) -> str:
    match bus:
        case BootBus.VIRTIO:
            return "virtio-blk-pci"
        case BootBus.SCSI:
            return "scsi-hd,bus=scsi.0"
        case BootBus.SATA:
            return f"ide-hd,bus=ide.{number}"


def _option(path: Path) -> str:
    """A path in an option of QEMU, where commas are doubled."""
    return str(path).replace(",", ",,")
