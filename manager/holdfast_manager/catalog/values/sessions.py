"""Sessions, what they tell, and what they owe."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.stats import TransferCounters

from ..processes import ProcessIdentity


class SessionKind(StrEnum):
    """What a session does."""

    BACKUP = "backup"
    RESTORE = "restore"
    VERIFY = "verify"
    GC = "gc"
    COPY = "copy"
    HEAL = "heal"
    CLEAN_UP = "clean-up"
    EXPORT = "export"
    BOOT = "boot"
    FILES = "files"
    INSTANT = "instant"
    SETTLE = "settle"
    EVACUATE = "evacuate"


class SessionState(StrEnum):
    """``STARTING``: written down, its process not there yet. The inner states of a session are its events."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class SessionResult(StrEnum):
    """How a session ended; ``NONE`` while it has not."""

    NONE = "none"
    SUCCESS = "success"
    WARNING = "warning"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A session. Times are Unix seconds. ``process`` is who runs it; ``spec`` what a restore or verify was asked.

    ``job`` is empty for sessions without one; it stays when the job is removed. ``patience_s``: for so long
    it may be silent before other hosts give it up; ``doubts``: since when they wonder, each by a clock of its own.
    """

    id: int
    kind: SessionKind
    job: str
    state: SessionState
    result: SessionResult
    created: float
    process: ProcessIdentity
    started: float | None = None
    ended: float | None = None
    stop_requested: bool = False
    error: ErrorRecord | None = None
    spec: dict[str, Any] = {}
    patience_s: float | None = None
    doubts: dict[str, float] | None = None


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual disk in one session. ``id`` 0: not stored yet. ``state`` is the task machine's word for it.

    ``sid`` is the restore point that the VM's disks go into. ``attempt`` counts from 1. ``queue_wait_s``: seconds
    spent waiting for slots, all attempts together.
    """

    id: int = 0
    session: int
    vm_id: str
    vm_name: str
    disk_id: str
    disk_name: str
    state: str
    sid: Sid | None = None
    attempt: int = 1
    mode: ChangeMode | None = None
    reason: str = ""
    counters: TransferCounters = TransferCounters()
    queue_wait_s: float = 0.0
    proxy: str = ""
    repository: str = ""
    error: ErrorRecord | None = None


class EventEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a session, in the order of ``id`` (0: not stored yet). ``task`` None: of the session itself.

    ``step`` is one of the ten named steps, or None. ``data`` is JSON-able: its shape belongs to ``kind``.
    """

    id: int = 0
    session: int
    task: int | None = None
    time: float
    kind: str
    step: str | None = None
    data: dict[str, Any] = {}


class NoticeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """That ``notifier`` is told of the end of a session. Times are Unix seconds.

    ``due``: when it is tried next, None when that is over: ``delivered``, or given up because of ``last_error``.
    """

    id: int
    session: int
    notifier: str
    created: float
    due: float | None
    attempts: int
    delivered: float | None
    last_error: str


class Obligation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was (or was about to be) made on a server and must be removed again.

    ``kind`` and ``data`` are the plugin's, handed to ``HypervisorDriver.fulfil``. ``last_error`` is text for people.
    """

    id: int
    session: int
    server: str
    plugin: str
    kind: str
    data: dict[str, str]
    created: float
    attempts: int = 0
    last_error: str = ""
