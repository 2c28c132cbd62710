"""What the catalogue hands out and takes: frozen values, never rows or database objects."""

from .hosts import (
    AgentEntry,
    AgentRole,
    PlacingPolicy,
    RepositoryEntry,
    RepositoryGroup,
    ServerEntry,
    ServerLimits,
    TrafficRule,
    check_network,
)
from .jobs import BootSettings, CopySettings, GuestPolicy, GuestSettings, JobSpec, OnCbtLoss, Priority
from .names import Milliseconds, Name, Rate, Slots
from .points import BootRecord, PointEntryRow, PointScope, PointState
from .runs import LastSession, RunState
from .sessions import (
    EventEntry,
    NoticeEntry,
    Obligation,
    SessionEntry,
    SessionKind,
    SessionResult,
    SessionState,
    TaskEntry,
)

__all__ = (
    "AgentEntry",
    "AgentRole",
    "BootRecord",
    "BootSettings",
    "CopySettings",
    "EventEntry",
    "GuestPolicy",
    "GuestSettings",
    "JobSpec",
    "LastSession",
    "Milliseconds",
    "Name",
    "NoticeEntry",
    "Obligation",
    "OnCbtLoss",
    "PlacingPolicy",
    "PointEntryRow",
    "PointScope",
    "PointState",
    "Priority",
    "Rate",
    "RepositoryEntry",
    "RepositoryGroup",
    "RunState",
    "ServerEntry",
    "ServerLimits",
    "SessionEntry",
    "SessionKind",
    "SessionResult",
    "SessionState",
    "Slots",
    "TaskEntry",
    "TrafficRule",
    "check_network",
)
