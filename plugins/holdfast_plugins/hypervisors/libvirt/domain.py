"""One domain of libvirt: its calls with types, each within the connection's time-out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from xml.sax.saxutils import quoteattr

from holdfast_agent.errors import DiskUnsupported
from holdfast_plugins.api import VmRef

from .binding import Code, LibvirtRefused
from .starts import Starts
from .volumes import capacity_bytes as volume_bytes
from .volumes import resolved

if TYPE_CHECKING:
    from .connection import Connection

_FIRST_POLL_S, _POLL_S = 0.002, 0.02
_T = TypeVar("_T")


class Domain:
    """A handle as good as the connection it was looked up on. Thread-safe.

    Methods raise :class:`LibvirtRefused` with libvirt's words, or ``HypervisorUnreachable``.
    """

    def __init__(self, connection: Connection, raw: Any) -> None:
        self._connection = connection
        self._raw = raw
        self._flag = connection.binding.flag

    @property
    def vm(self) -> VmRef:
        return VmRef(self._raw.UUIDString(), self._raw.name())

    @property
    def active(self) -> bool:
        """Whether QEMU runs, be the guest paused or not."""
        return bool(self._ask(self._raw.isActive))

    @property
    def persistent(self) -> bool:
        """Whether it stays defined when it is shut off."""
        return bool(self._ask(self._raw.isPersistent))

    @property
    def saved(self) -> bool:
        """Whether it is shut off with its memory kept in a file ("managed save")."""
        return bool(self._ask(self._raw.hasManagedSaveImage))

    def running(self) -> bool:
        """Whether the guest's processors run."""
        state, _reason = self._ask(self._raw.state)
        return int(state) in (self._flag("DOMAIN_RUNNING"), self._flag("DOMAIN_BLOCKED"))

    def paused_by_error(self) -> bool:
        """Whether QEMU paused the guest because a write of its failed, such as for want of space."""
        return [int(word) for word in self._ask(self._raw.state)] == [
            self._flag("DOMAIN_PAUSED"),
            self._flag("DOMAIN_PAUSED_IOERROR"),
        ]

    def resume(self) -> None:
        """Let a paused guest go on."""
        self._ask(self._raw.resume)

    def start(self) -> None:
        """Start QEMU, and the guest's processors."""
        self._ask(lambda: self._raw.createWithFlags(0))

    def remove(self) -> None:
        """End QEMU at once, and forget the domain with all that libvirt keeps of it."""
        if self.active:
            self._ask(self._raw.destroy)
        if self.persistent:
            names = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA", "NVRAM")
            flags = sum(self._flag(f"DOMAIN_UNDEFINE_{name}") for name in names)
            self._ask(lambda: self._raw.undefineFlags(flags))

    def xml(self, *, inactive: bool = False) -> str:
        """The definition: as QEMU runs, or as the next start will find it. Volumes of pools are told by their paths."""
        return resolved(self._connection, self._xml(inactive))

    def whole_xml(self) -> str:
        """All that is needed to define it anew, passwords of consoles too where the connection may read them."""
        wanted = self._flag("DOMAIN_XML_INACTIVE" if self.persistent else "DOMAIN_XML_MIGRATABLE")
        try:
            return str(self._ask(lambda: self._raw.XMLDesc(wanted | self._flag("DOMAIN_XML_SECURE"))))
        except LibvirtRefused:
            return str(self._ask(lambda: self._raw.XMLDesc(wanted)))

    def starts(self) -> Starts:
        """Listen for starts of it from now on."""
        return Starts(self._connection, self._connection.raw(), self._raw)

    def capacity_bytes(self, target: str) -> int:
        """The size of a disk as the guest sees it. ``target``: such as "vda".

        Raises :class:`DiskUnsupported` where libvirt can tell it only while the VM runs.
        """
        active = self.active
        if not active:  # then libvirt does not look for a volume
            found = volume_bytes(self._connection, self._xml(inactive=True), target)
            if found is not None:
                return found
        try:
            return int(self._ask(lambda: self._raw.blockInfo(target))[0])
        except LibvirtRefused as error:
            if active:
                raise
            reason = f"its size cannot be told while the VM is off: {error}"
            raise DiskUnsupported(disk=target, reason=reason, advice="Back it up while it runs") from error

    def _xml(self, inactive: bool) -> str:
        flags = self._flag("DOMAIN_XML_INACTIVE") if inactive else 0
        return str(self._ask(lambda: self._raw.XMLDesc(flags)))

    # --- backup jobs and checkpoints ----------------------------------------------------------------------------------

    def backup_xml(self) -> str | None:
        """The backup job that runs, whoever began it."""
        try:
            return str(self._ask(lambda: self._raw.backupGetXMLDesc(0)))
        except LibvirtRefused as error:
            if error.code in (Code.NO_DOMAIN_BACKUP, Code.OPERATION_INVALID, Code.OPERATION_UNSUPPORTED):
                return None
            raise

    def backup_begins(self) -> bool:
        """Whether libvirt is at work on a backup job, which :meth:`backup_xml` may not tell of yet."""
        try:
            told = self._ask(lambda: self._raw.jobStats(0))
        except LibvirtRefused:
            return False
        return int(told.get("operation", 0)) == self._flag("DOMAIN_JOB_OPERATION_BACKUP")

    def begin_backup(self, xml: str, checkpoint_xml: str | None) -> None:
        self._ask(lambda: self._raw.backupBegin(xml, checkpoint_xml, 0))

    def end_backup(self, timeout_s: float) -> None:
        """Abort the backup job and wait until it is gone, with its NBD server; that it was not there is success."""
        try:
            self._ask(self._raw.abortJob)
        except LibvirtRefused as error:
            if error.code != Code.OPERATION_INVALID:  # no job, or the domain is not running
                raise
        self.wait(lambda: self.backup_xml() is None, "the backup job has not ended", timeout_s)

    def checkpoints(self) -> list[str]:
        return [checkpoint.getName() for checkpoint in self._ask(self._raw.listAllCheckpoints)]

    def checkpoint_xml(self, name: str) -> str:
        no_domain = self._flag("DOMAIN_CHECKPOINT_XML_NO_DOMAIN")
        return str(self._ask(lambda: self._raw.checkpointLookupByName(name).getXMLDesc(no_domain)))

    def delete_checkpoint(self, name: str, *, metadata_only: bool = False) -> None:
        flags = self._flag("DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY") if metadata_only else 0
        self._ask(lambda: self._raw.checkpointLookupByName(name).delete(flags))

    def redefine_checkpoint(self, xml: str) -> None:
        """Make libvirt know a checkpoint whose bitmaps exist. ``xml`` must hold the domain's, too."""
        self._ask(lambda: self._raw.checkpointCreateXML(xml, self._flag("DOMAIN_CHECKPOINT_CREATE_REDEFINE")))

    # --- external snapshots -------------------------------------------------------------------------------------------

    def snapshot_disks(self, xml: str) -> None:
        """Put overlays over disks, at one instant or not at all, of which libvirt keeps no record of its own."""
        names = ("DISK_ONLY", "ATOMIC", "NO_METADATA")
        flags = sum(self._flag(f"DOMAIN_SNAPSHOT_CREATE_{name}") for name in names)
        self._ask(lambda: self._raw.snapshotCreateXML(xml, flags))

    def commit_top(self, target: str) -> None:
        """Begin to bring the overlay that is written to down into the image right under it, and no further.

        At its end libvirt removes the overlay's file.
        """
        flags = self._commit_flags() | self._flag("DOMAIN_BLOCK_COMMIT_ACTIVE")
        self._ask(lambda: self._raw.blockCommit(target, None, None, 0, flags))

    def commit_middle(self, target: str, top: str) -> None:
        """Likewise for the overlay ``top``, over which somebody has put another one."""
        flags = self._commit_flags()
        self._ask(lambda: self._raw.blockCommit(target, None, top, 0, flags))

    def _commit_flags(self) -> int:
        return self._flag("DOMAIN_BLOCK_COMMIT_SHALLOW") | self._flag("DOMAIN_BLOCK_COMMIT_DELETE")

    def begin_copy(self, target: str, path: str, image_format: str) -> None:
        """Begin to copy a disk to a new image, and to write to both what the guest writes."""
        names = ("TRANSIENT_JOB", "SYNCHRONOUS_WRITES")
        flags = sum(self._flag(f"DOMAIN_BLOCK_COPY_{name}") for name in names)
        xml = f"<disk type='file'><driver type='{image_format}'/><source file={quoteattr(path)}/></disk>"
        self._ask(lambda: self._raw.blockCopy(target, xml, {}, flags))

    def end_copy(self, target: str) -> None:
        """Give a copy up; the guest goes on with the disk."""
        self._ask(lambda: self._raw.blockJobAbort(target, 0))

    def pivot(self, target: str) -> None:
        """Let the guest go on with the image that everything was brought down, or copied, into."""
        self._ask(lambda: self._raw.blockJobAbort(target, self._flag("DOMAIN_BLOCK_JOB_ABORT_PIVOT")))

    def block_job(self, target: str) -> tuple[int, int] | None:
        """How far the disk's job is: (done, of), in bytes. None: it has none."""
        told = self._ask(lambda: self._raw.blockJobInfo(target, 0))
        return (int(told["cur"]), int(told["end"])) if told else None

    # --- the guest and the definition ---------------------------------------------------------------------------------

    def agent(self, command: str, timeout_s: int) -> str:
        """What the guest agent answers to a command in JSON, through libvirt's own channel to it.

        ``timeout_s``: for the agent's answer; libvirt's own time for the lock of the domain comes to it.
        """
        command_agent = self._connection.binding.qemu.qemuAgentCommand
        return str(self._ask(lambda: command_agent(self._raw, command, timeout_s, 0), timeout_s + 40.0))

    def forget_saved(self) -> None:
        """Throw the memory away that was saved with a domain: it goes with the disks as they were."""
        if self.saved:
            self._ask(lambda: self._raw.managedSaveRemove(0))

    def saved_xml(self) -> str:
        """The definition by which the memory that was saved goes on, whatever has been defined since."""
        return str(self._ask(lambda: self._raw.managedSaveGetXMLDesc(self._flag("DOMAIN_SAVE_IMAGE_XML_SECURE"))))

    def change_saved(self, xml: str) -> None:
        """Let the memory that was saved go on by another definition, which the guest cannot tell from the old one."""
        self._ask(lambda: self._raw.managedSaveDefineXML(xml, 0))

    def wait(self, done: Callable[[], bool], otherwise: str, timeout_s: float) -> None:
        """Ask until ``done``. Raises :class:`LibvirtRefused` with ``otherwise`` when it is not in time."""
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_POLL_S
        while not done():
            if time.monotonic() > deadline:
                raise LibvirtRefused(Code.OPERATION_TIMEOUT, f"{otherwise} within {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_S)

    def _ask(self, question: Callable[[], _T], timeout_s: float | None = None) -> _T:
        return self._connection.call("an answer", question, timeout_s)
