"""virtnbdbackup, which backs up VMs of libvirt over NBD with QEMU's dirty bitmaps: a VM on a libvirtd of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from peer import Peer, output_of

from holdfast_agent.model.geometry import Extent

_START_S = 60.0
_PROGRAMS = ("virtnbdbackup", "libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "unshare")
_STATE = ("run/libvirt", "etc/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt")
_QEMU = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = []\ncgroup_controllers = []\n'
_QEMU += 'stdio_handler = "file"\n'
_DAEMON = """\
unix_sock_dir = "{folder}"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{host}"
"""
# In a mount namespace of its own, in which the places that are compiled into libvirt are others.
_LAUNCH = """\
set -e
for place in {places}; do mkdir -p "/$place"; mount --bind "{folder}/state/$place" "/$place"; done
exec libvirtd --config "{folder}/libvirtd.conf" --pid-file "{folder}/libvirtd.pid"
"""
_DOMAIN = """\
<domain type='qemu'><name>vm</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><emulator>{emulator}</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>
<target dev='vda' bus='virtio'/><alias name='ua-disk'/></disk>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>
"""


class Virtnbdbackup(Peer):
    """The VM is paused from the start; what its guest would write is written by QEMU itself, through its device."""

    how_to_get = "apt install virtnbdbackup libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients; as root"

    def __init__(self, name: str, *options: str) -> None:
        self.name = name
        self._options = options
        self._daemon: subprocess.Popen[bytes] | None = None
        self._runtime: tempfile.TemporaryDirectory[str] | None = None

    @property
    def version(self) -> str | None:
        if os.geteuid() != 0 or any(shutil.which(program) is None for program in _PROGRAMS):
            return None
        return f"virtnbdbackup {output_of(['virtnbdbackup', '--version']).strip()}"

    def make_repository(self, home: Path) -> None:
        super().make_repository(home)
        (home / "scratch").mkdir()
        self._runtime = tempfile.TemporaryDirectory(prefix="hfv")  # sockets need a short path
        folder = Path(self._runtime.name)
        for place in _STATE:
            (folder / "state" / place).mkdir(parents=True)
        (folder / "state/etc/libvirt/qemu.conf").write_text(_QEMU)
        (folder / "libvirtd.conf").write_text(_DAEMON.format(folder=folder, host=uuid.uuid4()))
        launch = _LAUNCH.format(folder=folder, places=" ".join(_STATE))
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", launch]
        self._daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while not (folder / "libvirt-sock").exists():
            if time.monotonic() > deadline or self._daemon.poll() is not None:
                raise RuntimeError("libvirtd does not start")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(0.05)

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
        if self._daemon is not None:
            with contextlib.suppress(RuntimeError):
                self._virsh("destroy", "vm")
            self._daemon.terminate()
            self._daemon.wait()
            self._daemon = None
        if self._runtime is not None:
            self._runtime.cleanup()
            self._runtime = None

    @property
    def _folder(self) -> str:
        assert self._runtime is not None
        return self._runtime.name

    @property
    def _uri(self) -> str:
        return f"qemu:///system?socket={self._folder}/libvirt-sock"

    def _virsh(self, *arguments: str | Path) -> str:
        return output_of(["virsh", "--quiet", "--connect", self._uri, *arguments])
