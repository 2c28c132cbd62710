"""Building the guest: a kernel, an initrd, and a disk that also boots by itself. No root, no mounts, some seconds."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.tools import require_tool

from .flavours import FILES, Flavour
from .packages import Packages

CACHE = Path(__file__).parents[3] / ".lab-cache"
"""Kept from one run of the tests to the next; `make clean` removes it."""
MARK = "lab guest is up"
"""The last line on the serial console when the guest has booted."""
LABEL = "lab-root"
KERNEL_ARGUMENTS = "console=ttyS0 quiet mitigations=off no_timer_check"

_BASE = ("qemu-guest-agent", "busybox-static", "openssh-server")
_KERNEL = "linux-image-cloud-amd64"
_SSHD_CONFIG = """\
HostKey /etc/ssh/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
"""
_MODULES = (
    "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_console", "virtio_net", "virtio_rng", "button",
    "evdev",
)  # fmt: skip
_PARTITION_START = 1 << 20
_SECTOR_BYTES = 512
_BOOT_CODE_BYTES = 440


@dataclass(frozen=True)
class Image:
    """What was built; shared, so nobody may write to it. ``key``: the private SSH key that the guest's root takes."""

    flavour: Flavour
    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.raw"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def host_key(self) -> str:
        """The SSH host key, as known_hosts has it after the name."""
        return (self.folder / "host_key.pub").read_text().strip()


def build(flavour: Flavour, cache: Path = CACHE) -> Image:
    """The guest's image, made when the cache does not have it."""
    require_tool("qemu-system-x86_64", "qemu-system-x86")
    sources = [Path(__file__).with_name(name) for name in ("flavours.py", "image.py", "packages.py")]
    folder = cache / f"{flavour.name}-{fingerprint(flavour.name, *sources, *FILES.iterdir())}"
    with locked(cache):
        if not folder.exists():
            half = cache / f".{flavour.name}.{os.getpid()}"
            for older in cache.glob(f"{flavour.name}-*"):
                shutil.rmtree(older)
            try:
                _build(flavour, Packages(cache / "packages"), half)
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)
    return Image(flavour, folder)


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Nobody else changes ``cache`` meanwhile."""
    cache.mkdir(exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fingerprint(what: str, *sources: Path) -> str:
    """Changes when ``what`` or one of the files does."""
    digest = hashlib.sha256(what.encode())
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _build(flavour: Flavour, packages: Packages, folder: Path) -> None:
    folder.mkdir()
    root = folder / "root"
    _lay_out(flavour, root)
    own = Packages(folder / "packages", flavour.release) if flavour.release else packages
    own.install(own.with_libraries(*_BASE, *flavour.packages), root)
    busybox = root / "bin/busybox"
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if not (root / "bin" / name).exists() and not (root / "sbin" / name).exists():
            (root / "bin" / name).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "sbin/poweroff").symlink_to("../bin/busybox")
    _allow_ssh(root, folder)
    for database in flavour.databases:
        database.prepare(root)
    _make_boot_files(packages, root, folder)
    _make_disk(packages, root, folder, flavour.disk_bytes)
    shutil.rmtree(root)
    shutil.rmtree(folder / "packages", ignore_errors=True)


def _lay_out(flavour: Flavour, root: Path) -> None:
    """The tree, and what this folder has of it."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "var/log", "boot/grub", "etc/acpi/PWRF"):
        (root / name).mkdir(parents=True)
    (root / "var/run").symlink_to("/run")
    etc = root / "etc"
    (etc / "services").mkdir()
    for name in ("inittab", "start", "stop", "agent"):
        _place(name, etc / name)
    _place("shutdown", root / "sbin/shutdown")
    _place("power-button", etc / "acpi/PWRF/00000080")
    for number, name in enumerate((*(database.service for database in flavour.databases), "sshd")):
        _place(name, etc / f"services/{number}-{name}")
    accounts = ("root", "sshd", *(database.account for database in flavour.databases))
    users = {name: 0 if name == "root" else 100 + number for number, name in enumerate(accounts)}
    (etc / "passwd").write_text("".join(f"{name}:x:{uid}:{uid}::/root:/bin/sh\n" for name, uid in users.items()))
    (etc / "group").write_text("".join(f"{name}:x:{uid}:\n" for name, uid in users.items()))
    (etc / "shells").write_text("/bin/sh\n")
    (etc / "fstab").write_text("")
    (etc / "mtab").symlink_to("/proc/mounts")


def _place(name: str, target: Path) -> None:
    """Copy one of this folder's scripts, to be run in the guest."""
    shutil.copyfile(FILES / name, target)
    target.chmod(0o755)


def _allow_ssh(root: Path, folder: Path) -> None:
    (root / "root/.ssh").mkdir(mode=0o700)
    shutil.copyfile(_make_key(folder / "key"), root / "root/.ssh/authorized_keys")
    (root / "etc/ssh").mkdir(exist_ok=True)
    host_key = _make_key(root / "etc/ssh/host_key")
    (root / "etc/ssh/sshd_config").write_text(_SSHD_CONFIG)
    (folder / "host_key.pub").write_text(" ".join(host_key.read_text().split()[:2]))


def _make_key(path: Path) -> Path:
    """A new SSH key; the file with its public part."""
    keygen = require_tool("ssh-keygen", "openssh-client")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub")


def _make_boot_files(packages: Packages, root: Path, folder: Path) -> None:
    """Kernel and initrd, for QEMU to load and on the disk for GRUB."""
    (kernel_package,) = packages.dependencies(_KERNEL)[_KERNEL]
    kernel = packages.unpacked(kernel_package)
    (version,) = (path.name for path in (kernel / "lib/modules").iterdir())
    if not (kernel / "lib/modules" / version / "modules.dep").exists():
        subprocess.run([require_tool("depmod", "kmod"), "-b", kernel, version], check=True)
    initrd = folder / "initrd.d"
    for name in ("bin", "dev", "proc", "sys", "root", "drivers"):
        (initrd / name).mkdir(parents=True)
    shutil.copy(packages.unpacked("busybox-static") / "bin/busybox", initrd / "bin")
    _place("init", initrd / "init")
    shown = subprocess.run(
        [require_tool("modprobe", "kmod"), "-d", kernel, "-S", version, "--show-depends", "-a", *_MODULES],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    modules = dict.fromkeys(Path(line.split()[1]) for line in shown.stdout.splitlines() if line.startswith("insmod "))
    for module in modules:
        shutil.copy(module, initrd / "drivers")
    (initrd / "modules").write_text("".join(f"/drivers/{module.name}\n" for module in modules))
    names = "\n".join(str(path.relative_to(initrd)) for path in sorted(initrd.rglob("*")))
    with (folder / "initrd").open("wb") as archive:
        command = [require_tool("cpio", "cpio"), "--create", "--quiet", "--format=newc", "--owner=0:0"]
        subprocess.run(command, cwd=initrd, input=names.encode(), stdout=archive, check=True)
    shutil.rmtree(initrd)
    shutil.copyfile(kernel / f"boot/vmlinuz-{version}", folder / "kernel")
    for name in ("kernel", "initrd"):
        shutil.copyfile(folder / name, root / "boot" / name)
    (root / "boot/grub/grub.cfg").write_text(
        "serial --unit=0\nterminal_output serial\n"
        f"linux /boot/kernel root=LABEL={LABEL} {KERNEL_ARGUMENTS}\ninitrd /boot/initrd\nboot\n"
    )


def _make_disk(packages: Packages, root: Path, folder: Path, size_bytes: int) -> None:
    """One ext4 partition with ``root`` in it, owned by the guest's root, and GRUB before it."""
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(
        [require_tool("sfdisk", "fdisk"), "--quiet", disk],
        input=b"label: dos\nstart=2048, bootable\n", check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    make_ext4(disk, LABEL, _PARTITION_START, "-d", root)
    grub = packages.unpacked("grub-pc-bin") / "usr/lib/grub/i386-pc"
    subprocess.run(
        [
            require_tool("grub-mkimage", "grub-common"), "-d", grub, "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub",
            "-o", folder / "core.img", "biosdisk", "part_msdos", "ext2", "linux", "normal", "configfile", "serial",
        ],
        check=True,
    )  # fmt: skip
    with disk.open("r+b") as file:
        file.write((grub / "boot.img").read_bytes()[:_BOOT_CODE_BYTES])
        file.seek(_SECTOR_BYTES)
        file.write((folder / "core.img").read_bytes())


def make_ext4(disk: Path, label: str, start_bytes: int = 0, *arguments: str | Path) -> None:
    """An ext4 in a raw image from ``start_bytes`` to its end, owned by root. ``arguments``: more for mke2fs."""
    blocks = (disk.stat().st_size - start_bytes) // 4096
    subprocess.run(
        [
            require_tool("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-L", label, "-m", "0",
            "-E", f"offset={start_bytes},root_owner=0:0,lazy_itable_init=0,nodiscard", *arguments, disk, str(blocks),
        ],
        check=True,
    )  # fmt: skip
