"""What a session other than a backup was asked for; kept in the session's row so that its process can read it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from holdfast_agent.model.ids import Sid
from holdfast_agent.model.rules import Compression
from holdfast_agent.wire.messages import VerifyBudget
from holdfast_manager.catalog.values import BootSettings, JobSpec, PointScope


class BackupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Back up the VMs of a job. ``again``: only those that a session of the job was to back up and did not."""

    again: int | None = None


class CleanUpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Fulfil what sessions that are over left open on ``server``."""

    server: str


class RestoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Restore the point ``sid`` of ``repository``.

    To files: ``directory`` on the host of the agent ``proxy`` gets one image per disk, named by ``files`` (disk id to
    file name) or after the disk, in the format ``image_format``. To a hypervisor: ``server`` gets a VM called ``name``.
    Exactly one of the two.
    ``disks``: ids of the disks to restore, empty for all. ``overwrite``: what is in the way is replaced at the end.
    ``in_place``: the VM ``name`` of ``server``, or the disks at ``places`` (disk id to URL), are there already and are
    rewritten where they differ.
    """

    repository: str
    sid: Sid
    disks: tuple[str, ...] = ()
    proxy: str = ""
    directory: str = ""
    files: dict[str, str] = {}
    image_format: str = "raw"
    server: str = ""
    name: str = ""
    overwrite: bool = False
    in_place: bool = False
    places: dict[str, str] = {}


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Check ``points`` of ``repository`` (empty: all of them, and every pack).

    Level 0: every point resolves, every pack is there with its size. Level 1: every byte of the packs by checksum;
    neither needs a key. Level 2: every distinct block of the points is decoded once on the agent ``proxy`` (empty: any)
    and compared with its id. ``budget`` bounds what is read at levels 1 and 2; its age only packs, so level 1.
    """

    repository: str
    level: Annotated[int, msgspec.Meta(ge=0, le=2)] = 1
    points: tuple[Sid, ...] = ()
    proxy: str = ""
    budget: VerifyBudget = VerifyBudget()


class GcRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Collect the garbage of ``repository``; ``dry_run`` only tells what would go."""

    repository: str
    dry_run: bool = False


class CopyRequest(PointScope, frozen=True, kw_only=True):
    """Copy points of the repository ``origin`` that ``repository`` does not have.

    ``points``: these and no others. Else all in scope, not older than ``since`` (Unix time), and of each VM the
    ``latest`` so many; suspect ones only with ``suspect``, those whose copies were pruned only with ``pruned``.
    ``job``: file the copies under this job, whose retention rules them from then on ("": under that of the original).
    ``bandwidth_bytes_per_s``: of the whole session.
    """

    origin: str
    repository: str
    points: tuple[Sid, ...] = ()
    suspect: bool = False
    pruned: bool = False
    since: float | None = None
    latest: Annotated[int, msgspec.Meta(ge=1)] | None = None
    proxy: str = ""
    compression: Compression = Compression.LZ4
    bandwidth_bytes_per_s: Annotated[int, msgspec.Meta(ge=1024)] | None = None
    job: str = ""


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Serve disks of the point ``sid`` of ``repository`` over NBD on the agent ``proxy``, until the session is stopped.

    ``export``: names its folder on that agent; a session that goes on with an export of another names the same.
    ``disks``: ids, empty for all. ``listen``, ``writable`` and ``keep``: as in
    :class:`~holdfast_agent.wire.specs.ExporterSpec`. ``held``: the point is put on hold for this export alone, and
    released when what was written is discarded. ``resumed``: it goes on with what was written before. ``after``: the
    session that died and whose work the service lets go on by this one.
    """

    repository: str
    sid: Sid
    proxy: str
    export: str
    disks: tuple[str, ...] = ()
    listen: str = ""
    writable: bool = False
    keep: bool = False
    held: bool = False
    resumed: bool = False
    after: int | None = None


class InstantRequest(ExportRequest, frozen=True, kw_only=True):
    """Run a VM called ``name`` on ``server`` from such an export, which is writable and kept. ``resumed``: the VM may
    be there already, and wait for its disks."""

    server: str
    name: str


class SettleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The end of what the session ``instant`` began: its VM is brought to disks of its own (``migrate``) or removed.

    ``keep``: what it wrote stays on the agent, for a VM that is started from it again.
    """

    instant: int
    migrate: bool
    keep: bool = False


class BootRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Prove that the VM of the point ``sid`` boots, on the agent ``proxy`` (whatever the settings say of one).

    ``disks``: ids in the order in which the VM has them, empty for all.
    """

    repository: str
    sid: Sid
    proxy: str
    disks: tuple[str, ...] = ()
    settings: BootSettings = BootSettings()


class FilesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Restore files of the point ``sid`` of ``repository`` to the folder ``target`` on the host of the agent ``proxy``.

    ``paths``, ``overwrite`` and ``setuid``: as in :class:`~holdfast_agent.wire.files.FetchFiles`. ``volume``: of this
    one only. ``disks``: ids, empty for all. ``mount``: all files are shown there instead, until it is unmounted;
    ``to_others``: as in :class:`~holdfast_agent.wire.files.MountFiles`.
    """

    repository: str
    sid: Sid
    proxy: str
    paths: tuple[bytes, ...]
    target: str
    mount: bool = False
    to_others: bool = False
    volume: str = ""
    disks: tuple[str, ...] = ()
    overwrite: bool = False
    setuid: bool = False


class EvacuateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Move all points of ``repository`` to the other members of its group."""

    repository: str


class HealRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Store what points of ``repository`` have lost again, from points of ``origin`` with the same content."""

    repository: str
    origin: str
    proxy: str = ""


def of_job(job: JobSpec, again: int | None = None) -> dict[str, Any]:
    """What a session of ``job`` is asked for, JSON-able. ``again``: as in :class:`BackupRequest`.

    A copy needs no such hint: it copies what is not there.
    """
    if job.copy is None:
        return {} if again is None else {"again": again}
    scope = job.scope
    request = CopyRequest(
        origin=job.copy.origin,
        repository=job.repository,
        vms=scope.vms,
        exclude=scope.exclude,
        jobs=scope.jobs,
        suspect=job.copy.suspect,
        compression=job.compression,
        job=job.name,
    )
    table: dict[str, Any] = msgspec.to_builtins(request)
    return table
