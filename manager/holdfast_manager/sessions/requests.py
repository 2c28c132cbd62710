"""What a session other than a backup was asked for; kept in the session's row so that its process can read it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from holdfast_agent.model.ids import Sid
from holdfast_agent.model.rules import Compression
from holdfast_agent.wire.messages import VerifyBudget


class BackupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Back up the VMs of a job. ``again``: only those that a session of the job was to back up and did not."""

    again: int | None = None


class CleanUpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Fulfil what sessions that are over left open on ``server``."""

    server: str


class RestoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Restore the point ``sid`` of ``repository``.

    To files: ``directory`` on the host of the agent ``proxy`` gets one raw image per disk, named by ``files`` (disk id
    to file name) or after the disk. To a hypervisor: ``server`` gets a VM called ``name``. Exactly one of the two.
    ``disks``: ids of the disks to restore, empty for all. ``overwrite``: what is in the way is replaced at the end.
    """

    repository: str
    sid: Sid
    disks: tuple[str, ...] = ()
    proxy: str = ""
    directory: str = ""
    files: dict[str, str] = {}
    server: str = ""
    name: str = ""
    overwrite: bool = False


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


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Copy points of the repository ``origin`` that ``repository`` does not have.

    ``points``: these and no others. Else all, of the VMs that ``vms`` name (names, ids or patterns; empty: all), not
    older than ``since`` (Unix time), and of each VM the ``latest`` so many. ``job``: file the copies under this job,
    whose retention rules them from then on ("": under that of the original). ``bandwidth_bytes_per_s``: of the whole
    session.
    """

    origin: str
    repository: str
    vms: tuple[str, ...] = ()
    points: tuple[Sid, ...] = ()
    since: float | None = None
    latest: Annotated[int, msgspec.Meta(ge=1)] | None = None
    proxy: str = ""
    compression: Compression = Compression.LZ4
    bandwidth_bytes_per_s: Annotated[int, msgspec.Meta(ge=1024)] | None = None
    job: str = ""


class HealRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Store what points of ``repository`` have lost again, from points of ``origin`` with the same content."""

    repository: str
    origin: str
    proxy: str = ""
