"""virtnbdbackup, which backs up VMs of libvirt over NBD with QEMU's dirty bitmaps: a VM on a libvirtd of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from peer import Peer, output_of

from holdfast_agent.model.geometry import Extent
from lab.libvirt_host import libvirtd

_PROGRAMS = ("virtnbdbackup", "libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "unshare")
_DOMAIN = """\
<domain type='qemu'><name>vm</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><emulator>{emulator}</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>
<target dev='vda' bus='virtio'/><alias name='ua-disk'/></disk>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>
"""


class Virtnbdbackup(Peer):
    """The VM is paused from the start; what its guest would write is written by QEMU itself, through its device."""

    how_to_get = (
        "as root; apt install virtnbdbackup libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86, "
        "adduser --system --group libvirt-qemu"
    )

    def __init__(self, name: str, *options: str) -> None:
        self.name = name
        self._options = options
        self._running = contextlib.ExitStack()
        self._folder = self._uri = ""

    @property
    def version(self) -> str | None:
        if os.geteuid() != 0 or any(shutil.which(program) is None for program in _PROGRAMS):
            return None
        if not any(user.pw_name == "libvirt-qemu" for user in pwd.getpwall()):
            return None
        return f"virtnbdbackup {output_of(['virtnbdbackup', '--version']).strip()}"

    def make_repository(self, home: Path) -> None:
        super().make_repository(home)
        (home / "scratch").mkdir()
        self._folder = self._running.enter_context(tempfile.TemporaryDirectory(prefix="hfv"))  # short, for sockets
        uri, _ = self._running.enter_context(libvirtd(Path(self._folder), home / "cache"))
        self._uri = uri.replace("+unix", "")  # it asks for a password where it takes libvirt to be remote

    def show(self, home: Path, image: Path, changed: Sequence[Extent] = ()) -> None:
        disk = home / "vm.qcow2"
        if not disk.exists():
            output_of(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, disk])
            domain = _DOMAIN.format(emulator=shutil.which("qemu-system-x86_64"), image=disk)
            (home / "vm.xml").write_text(domain)
            self._virsh("define", home / "vm.xml")
            self._virsh("start", "vm", "--paused")
        for extent in changed:
            with image.open("rb") as source:
                source.seek(extent.start)
                (home / "piece").write_bytes(source.read(extent.length))
            order = f"write -s {home}/piece {extent.start} {extent.length}"
            device = "/machine/peripheral/ua-disk/virtio-backend"
            said = self._virsh("qemu-monitor-command", "vm", "--hmp", f'qemu-io -d {device} "{order}"')
            if "wrote" not in said and said.strip():
                raise RuntimeError(f"QEMU did not write: {said}")

    def run(self, home: Path, image: Path) -> None:
        level = "inc" if any((home / "repo").iterdir()) else "full"
        scratch = ("--scratchdir", home / "scratch", "--socketfile", f"{self._folder}/backup.sock", "--noprogress")
        command = ["virtnbdbackup", "-U", self._uri, "-d", "vm", "-l", level, "-o", home / "repo", *scratch]
        output_of([*command, *self._options])

    def restore_to(self, home: Path, folder: Path) -> None:
        socket = ("--socketfile", f"{self._folder}/restore.sock")
        output_of(
            ["virtnbdrestore", "-U", self._uri, "-i", home / "repo", "-a", "restore", "-o", folder, "-n", *socket]
        )

    def close(self, home: Path) -> None:
        if self._uri:
            with contextlib.suppress(RuntimeError):
                self._virsh("destroy", "vm")
        self._running.close()
        self._uri = ""

    def _virsh(self, *arguments: str | Path) -> str:
        return output_of(["virsh", "--quiet", "--connect", self._uri, *arguments])
