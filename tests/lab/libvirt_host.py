"""A libvirt of the tests' own: libvirtd with its state in private places, or embedded in a process; and VMs on it.

The daemon runs in a mount namespace of its own, in which the places that are compiled into it are others; what it
shares with the host is its socket and the folder of the VMs. It also has a process namespace of its own: with that all
of its QEMUs end, and its first process is a shell that sees to dead ones at once, for which libvirt waits, and starts
the daemon again if it dies.

The guests have disks and no operating system: they are paused from the start, and QEMU itself writes to their disks as
told, through the device that a guest would write by.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from holdfast_plugins.hypervisors.libvirt import LibvirtDriver, LibvirtOptions
from lab.certificates import make_certificates
from lab.guest.image import CACHE
from lab.ports import free_port
from lab.processes import children
from lab.tools import missing, require_tool
from lab.waiting import listens

SECTOR = 512
GRAIN = 64 << 10
_START_S = 60.0
_STATE = ("run/libvirt", "etc/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt")
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
_DAEMON_CONF = """\
unix_sock_dir = "{folder}"
auth_unix_rw = "none"
auth_unix_ro = "none"
listen_tls = 0
listen_tcp = 1
listen_addr = "127.0.0.1"
tcp_port = "{port}"
auth_tcp = "none"
host_uuid = "{host}"
log_outputs = "2:file:{folder}/libvirtd.log"
"""
_LAUNCH = """\
set -e
for place in {places}; do
    mkdir -p "/$place"
    mount --bind "{folder}/state/$place" "/$place"
done
set +e
while true; do
    libvirtd --listen --config "{folder}/libvirtd.conf" --pid-file "{folder}/libvirtd.pid"
done
"""


def require_libvirt() -> None:
    """Skip the test, or fail it in continuous integration, where libvirt or the right to run it is missing."""
    require_tool("libvirtd", "libvirt-daemon libvirt-daemon-driver-qemu")
    require_tool("qemu-system-x86_64", "qemu-system-x86")
    require_tool("qemu-img", "qemu-utils")
    try:
        import libvirt  # noqa: F401 (only whether it is there)
    except ImportError:
        missing("libvirt-python is missing; apt install libvirt-dev gcc pkg-config; pip install libvirt-python")
    try:
        pwd.getpwnam("libvirt-qemu")
    except KeyError:
        missing("there is no user libvirt-qemu; Debian and Ubuntu: adduser --system --group libvirt-qemu")
    if os.geteuid() != 0:
        missing("a libvirtd of the tests' own needs root, for namespaces")


class LibvirtHost:
    """Where VMs run. ``shared`` is what agents may open: ``scratch`` and ``images`` lie in it. Its path is short."""

    def __init__(self, folder: Path, uri: str, beside: LibvirtHost | None = None) -> None:
        """``beside``: another host, whose storage this one sees too."""
        self.folder, self.uri = folder, uri
        self.shared: Path = beside.shared if beside else folder / "s"
        self.scratch, self.images = self.shared / f"scratch{2 if beside else ''}", self.shared / "images"
        self.remote_uri = ""
        self.logs = folder / "state/var/log/libvirt/qemu"
        self.scratch.mkdir(parents=True)
        self.images.mkdir(exist_ok=True)

    @functools.cached_property
    def raw(self) -> Any:
        """The lab's own connection."""
        import libvirt

        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        return libvirt.open(self.uri)

    def options(self, **more: object) -> dict[str, Any]:
        """The options of a server for this host."""
        return {"uri": self.uri, "scratch_dir": str(self.scratch), "restore_dir": str(self.images), **more}

    @contextlib.contextmanager
    def driver(self) -> Iterator[LibvirtDriver]:
        """The plugin's, connected."""
        driver = LibvirtDriver(LibvirtOptions(**self.options()), {})
        driver.connect()
        try:
            yield driver
        finally:
            driver.close()

    def vm(self, name: str, disks: Mapping[str, tuple[str, int]], *, io_threads: int = 0) -> LibvirtVm:
        """Define a VM with new disks: by target the format and the size in bytes."""
        return LibvirtVm(self, name, disks, io_threads=io_threads)

    def restart_daemon(self) -> None:
        """SIGKILL to libvirtd; another one has taken its place when this returns. VMs go on meanwhile."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"{self.folder}/libvirtd.conf".encode() in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
        del self.raw
        deadline = time.monotonic() + _START_S
        while "raw" not in self.__dict__:
            assert time.monotonic() < deadline, "libvirtd does not come back"
            with contextlib.suppress(Exception):  # until the new one listens
                _ = self.raw

    def clear(self) -> None:
        """Remove all VMs and whatever lies about, for the next test."""
        for domain in self.raw.listAllDomains():
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefineFlags(1 << 1 | 1 << 4 | 1 << 2)  # metadata of snapshots and checkpoints, NVRAM
        for folder in (self.scratch, self.images):
            for left in folder.iterdir():
                left.unlink()


class LibvirtVm:
    """A domain. ``content``: what each disk holds, kept beside it by whatever is written through this object."""

    def __init__(
        self, host: LibvirtHost, name: str, disks: Mapping[str, tuple[str, int]], *, io_threads: int = 0
    ) -> None:
        """``io_threads``: so many, of which the first serves all disks."""
        self.host, self.name, self.uuid = host, name, str(uuid.uuid4())
        self._io_threads = io_threads
        self.content: dict[str, bytearray] = {}
        self.formats = {target: image_format for target, (image_format, _) in disks.items()}
        for target, (image_format, size) in disks.items():
            subprocess.run(["qemu-img", "create", "-q", "-f", image_format, self.image(target), str(size)], check=True)
            self.content[target] = bytearray(size)
        self.define()

    @classmethod
    def found(cls, host: LibvirtHost, name: str, content: Mapping[str, bytes]) -> LibvirtVm:
        """A VM that somebody else has made, with what its disks hold."""
        vm = cls.__new__(cls)
        vm.host, vm.name, vm._io_threads = host, name, 0
        vm.uuid = host.raw.lookupByName(name).UUIDString()
        vm.content = {target: bytearray(each) for target, each in content.items()}
        vm.formats = dict.fromkeys(content, "qcow2")
        return vm

    @property
    def domain(self) -> Any:
        return self.host.raw.lookupByUUIDString(self.uuid)

    def image(self, target: str) -> Path:
        return self.host.images / f"{self.name}-{target}.{self.formats[target]}"

    def define(self) -> None:
        """Define it, or define it anew, as it is now."""
        self.host.raw.defineXML(self.xml())

    def xml(self) -> str:
        disks = "".join(map(self.disk_xml, self.formats))
        return f"""<domain type='qemu'><name>{self.name}</name><uuid>{self.uuid}</uuid><memory unit='MiB'>64</memory>
            <iothreads>{self._io_threads}</iothreads>
            <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
            <emulator>{shutil.which("qemu-system-x86_64")}</emulator>{disks}
            <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
            <interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
            <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""

    def disk_xml(self, target: str) -> str:
        return f"""<disk type='file' device='disk'><driver name='qemu' type='{self.formats[target]}' discard='unmap'
            {"iothread='1'" if self._io_threads else ""}/>
            <source file='{self.image(target)}'/><target dev='{target}' bus='virtio'/></disk>"""

    def start(self) -> LibvirtVm:
        """Start QEMU; the guest's processors never run."""
        self.domain.createWithFlags(1)  # VIR_DOMAIN_START_PAUSED
        return self

    def stop(self) -> None:
        """An orderly end of QEMU, as after a shut-down: bitmaps are written to the images."""
        self.domain.destroy()

    def kill(self) -> None:
        """SIGKILL to QEMU, and wait until libvirt has noticed."""
        os.kill(self.process(), signal.SIGKILL)
        deadline = time.monotonic() + _START_S
        while self.domain.isActive():
            assert time.monotonic() < deadline, "libvirt has not noticed that QEMU is gone"

    def migrate(self, to: LibvirtHost, *, forgotten: bool) -> None:
        """Move the VM to a host that sees its images, live if it runs. ``forgotten``: by the host that it leaves."""
        flags = 1 << 3 | 1 << 9 | forgotten << 4  # VIR_MIGRATE_: PERSIST_DEST, UNSAFE (it is no NFS), UNDEFINE_SOURCE
        domain = self.domain
        if domain.isActive():
            domain.resume()  # a guest that stands still would reach the other host with images that QEMU has not opened
            there = domain.migrate3(to.raw, {"migrate_uri": f"tcp://127.0.0.1:{free_port()}"}, flags | 1)  # LIVE
            there.suspend()
        else:
            domain.migrate3(to.raw, {}, flags | 1 << 10)  # OFFLINE
        self.host = to

    def process(self) -> int:
        """QEMU's process id. Names are not looked for: tests that run beside this one have VMs of the same name."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.uuid.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
        raise AssertionError(f"no QEMU runs {self.name}")

    # --- what the guest does ------------------------------------------------------------------------------------------

    def write(self, target: str, offset: int, data: bytes) -> None:
        """Let the guest write; whole sectors reach the disk."""
        content = self.content[target]
        content[offset : offset + len(data)] = data
        first, last = offset // SECTOR * SECTOR, -(-(offset + len(data)) // SECTOR) * SECTOR
        source = self.host.folder / "sectors"
        source.write_bytes(content[first:last])
        self._io(target, f"write -s {source} {first} {last - first}")

    def scribble(self, chance: Random, times: int) -> None:
        """Write, discard and zero here and there. Beside a job of QEMU nothing is discarded: it may keep the data."""
        hows = ["write"] * 4 + ["zero"] + ["discard"] * (not self.monitor("query-jobs"))
        for _ in range(times):
            target = chance.choice(list(self.content))
            length = SECTOR * chance.choice([1, 7, 128, 300])
            start = SECTOR * chance.randrange((len(self.content[target]) - length) // SECTOR)
            how = chance.choice(hows)
            if how == "write":
                self.write(target, start, chance.randbytes(length))
                continue
            if how == "discard":  # whole clusters, so that it is known what is read then
                start, length = start // GRAIN * GRAIN, min(GRAIN, len(self.content[target]) - start // GRAIN * GRAIN)
            self.content[target][start : start + length] = bytes(length)
            self._io(target, f"{'discard' if how == 'discard' else 'write -z'} {start} {length}")

    def resize(self, target: str, size: int) -> None:
        """Make a disk of the running VM larger."""
        self.domain.blockResize(target, size, 1)  # VIR_DOMAIN_BLOCK_RESIZE_BYTES
        self.content[target].extend(bytes(size - len(self.content[target])))

    def attach(self, target: str, image_format: str, size: int) -> None:
        """Plug a new disk into the VM as it runs and as it starts next."""
        self.formats[target] = image_format
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, self.image(target), str(size)], check=True)
        self.content[target] = bytearray(size)
        self.domain.attachDeviceFlags(self.disk_xml(target), 3)  # live and config

    def detach(self, target: str) -> None:
        """Unplug a disk, from the VM as it runs and as it starts next.

        Its guest never runs and so never gives it up: QEMU is started anew without it.
        """
        del self.formats[target], self.content[target]
        self.stop()
        self.define()
        self.start()

    def put_overlays(self) -> None:
        """Let the running VM write to new images over its disks, as a snapshot by its owner does."""
        disks = "".join(
            f"<disk name='{target}'><source file='{self.image(target)}.by-hand'/></disk>" for target in self.formats
        )
        flags = 1 << 4 | 1 << 7 | 1 << 2  # VIR_DOMAIN_SNAPSHOT_CREATE_: DISK_ONLY, ATOMIC, NO_METADATA
        self.domain.snapshotCreateXML(f"<domainsnapshot><disks>{disks}</disks></domainsnapshot>", flags)

    def commit_overlays(self) -> None:
        """Bring them down into the disks again."""
        for target in self.formats:
            self.domain.blockCommit(target, None, None, 0, 1 << 2 | 1 << 0)  # ACTIVE, SHALLOW
            deadline = time.monotonic() + _START_S
            while "ready='yes'" not in self.domain.XMLDesc():
                assert time.monotonic() < deadline, "the commit does not come to its end"
            self.domain.blockJobAbort(target, 1 << 1)  # PIVOT
            Path(f"{self.image(target)}.by-hand").unlink()

    def read_image(self, target: str, domain: Any = None) -> bytes:
        """What the image of a disk holds, of this VM or of another domain that is shut off."""
        if domain is None and self.domain.isActive():
            self._io(target, "flush")
        xml = (domain or self.domain).XMLDesc().split(f"<target dev='{target}'")[0].rsplit("<disk ", 1)[1]
        path = xml.split("<source file='")[1].split("'")[0]
        image_format = xml.split("<driver")[1].split("type='")[1].split("'")[0]
        raw = self.host.folder / "converted"
        subprocess.run(["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw], check=True)
        return raw.read_bytes()

    def bitmaps_in_images(self) -> set[str]:
        """The dirty bitmaps stored in the images, by what their headers list; QEMU stores its own when it ends."""
        found = set()
        for target in self.formats:
            command = ["qemu-img", "info", "-U", "--output=json", str(self.image(target))]
            told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            found |= {each["name"] for each in told["format-specific"]["data"].get("bitmaps", ())}
        return found

    def monitor(self, command: str, **arguments: object) -> Any:
        """What QEMU's monitor answers."""
        import libvirt_qemu

        order = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuMonitorCommand(self.domain, order, 0))["return"]

    def bitmaps(self) -> dict[str, list[str]]:
        """The dirty bitmaps with names that QEMU has, by the disk's image."""
        found: dict[str, list[str]] = {}
        for node in self.monitor("query-named-block-nodes", flat=True):
            names = [bitmap["name"] for bitmap in node.get("dirty-bitmaps", ()) if bitmap.get("name")]
            if names and node["drv"] == "qcow2":
                found.setdefault(Path(node["image"]["filename"]).name, []).extend(sorted(names))
        return found

    def checkpoints(self) -> list[str]:
        return sorted(checkpoint.getName() for checkpoint in self.domain.listAllCheckpoints())

    def _io(self, target: str, command: str) -> None:
        """One command of qemu-io through the disk's device. QEMU tells in its log alone what became of it."""
        import libvirt_qemu

        log = self.host.logs / f"{self.name}.log"
        before = log.stat().st_size
        alias = self.domain.XMLDesc().split(f"<target dev='{target}'")[1].split("<alias name='")[1].split("'")[0]
        order = f'qemu-io -d /machine/peripheral/{alias}/virtio-backend "{command}"'
        refused = libvirt_qemu.qemuMonitorCommand(self.domain, order, 1)
        with log.open("rb") as file:
            file.seek(before)
            said = file.read().decode(errors="replace")
        done = "fail" not in said if command == "flush" else re.search(r"^(wrote|discard) (\d+)/\2 bytes", said, re.M)
        assert done and not refused, f"{command} of {target}: {refused}{said}"


@contextlib.contextmanager
def libvirt_daemon(beside: LibvirtHost | None = None) -> Iterator[LibvirtHost]:
    """A libvirtd in system mode. What it finds out about QEMU, which takes it seconds, is kept for the next one.

    Its QEMUs can serve NBD with TLS, by certificates in the folder ``pki``.
    """
    require_libvirt()
    with tempfile.TemporaryDirectory(prefix="hfv") as name, libvirtd(Path(name), CACHE / "libvirt") as uris:
        uri, remote_uri = uris
        host = LibvirtHost(Path(name), uri, beside)
        host.remote_uri = remote_uri
        try:
            yield host
            host.clear()
        finally:
            if "raw" in host.__dict__:
                host.raw.close()


@contextlib.contextmanager
def libvirtd(folder: Path, cache: Path) -> Iterator[tuple[str, str]]:
    """The daemon alone, with its state below ``folder``; its URIs by its socket and by TCP."""
    cache.mkdir(parents=True, exist_ok=True)
    for place in _STATE:
        (folder / "state" / place).mkdir(parents=True)
    (folder / "state/var/cache/libvirt").rmdir()
    (folder / "state/var/cache/libvirt").symlink_to(cache.resolve())
    pki = make_certificates(folder / "pki").folder
    tls = f'backup_tls_x509_cert_dir = "{pki}"\nbackup_tls_x509_verify = 0\n'
    (folder / "state/etc/libvirt/qemu.conf").write_text(QEMU_CONF + tls)
    port = free_port()
    (folder / "libvirtd.conf").write_text(_DAEMON_CONF.format(folder=folder, host=uuid.uuid4(), port=port))
    launch = _LAUNCH.format(folder=folder, places=" ".join(_STATE))
    command = ["setpriv", "--pdeathsig", "KILL"]  # tests that are killed leave no daemon and no QEMU
    command += ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command += ["sh", "-c", launch]
    said = (folder / "launch.log").open("wb")
    with said, subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as daemon:
        try:
            places: list[Path | tuple[str, int]] = [folder / "libvirt-sock", ("127.0.0.1", port)]
            deadline = time.monotonic() + _START_S
            while not all(map(listens, places)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(0.01)
                    raise AssertionError("libvirtd ended: " + (folder / "launch.log").read_text()[-2000:])
                assert time.monotonic() < deadline, "libvirtd does not listen"
            yield f"qemu:///system?socket={folder}/libvirt-sock", f"qemu+tcp://127.0.0.1:{port}/system"
        finally:
            for first in children(daemon.pid):  # with it all of its namespace ends, before `unshare` does
                os.kill(first, signal.SIGKILL)
