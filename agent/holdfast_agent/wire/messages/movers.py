"""Leases, and the movers that live under them."""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.rules import Route, TransferRules
from holdfast_agent.model.stats import TransferCounters

from ..specs import AnySpec, MoverResult, Order
from .base import Push, Reply, Request


class RenewLease(Request, frozen=True, tag=True, kw_only=True):
    """Open a lease, or prolong it by ``ttl_s`` (5 … 3600) from now.

    A lease belongs to the key that opened it. When it runs out, its movers are stopped. The connection that renewed
    it last receives its pushes, so a manager that comes back adopts its movers by renewing.
    """

    lease: str
    ttl_s: float


class CloseLease(Request, frozen=True, tag=True, kw_only=True):
    """Stop all movers of the lease and forget it. Idempotent."""

    lease: str


class PrepareMover(Request, frozen=True, tag=True, kw_only=True):
    """Start the process of a mover whose :class:`StartMover` follows, so that it loads its modules meanwhile.

    For movers that connect, which cannot be told what to do before the other one listens. Asking twice starts one.
    """

    lease: str
    mover: str
    task_id: str


class StartMover(Request, frozen=True, tag=True, kw_only=True):
    """Start one Data Mover process, or tell the one that was prepared under this name what it is.

    ``mover`` is a fresh name chosen by the manager; asking twice starts one.
    """

    lease: str
    mover: str
    spec: AnySpec


class MoverStarted(Reply, frozen=True, tag=True, kw_only=True):
    """The process runs. ``endpoints``: where a listening mover can be reached; empty for one that connects."""

    pid: int
    endpoints: tuple[str, ...] = ()


class BeginTransfer(Request, frozen=True, tag=True, kw_only=True):
    """Give a mover on a proxy its order. Sent once per mover."""

    lease: str
    mover: str
    order: Order


class ChangeRules(Request, frozen=True, tag=True, kw_only=True):
    """New transfer rules for a running mover."""

    lease: str
    mover: str
    rules: TransferRules


class StopMover(Request, frozen=True, tag=True, kw_only=True):
    """Stop a mover and wait until its process is gone. Idempotent."""

    lease: str
    mover: str
    reason: str


class ListMovers(Request, frozen=True, tag=True, kw_only=True):
    """All movers of a lease, ended ones included until the lease is closed; how a returning manager finds out."""

    lease: str


class MoverState(msgspec.Struct, frozen=True, kw_only=True):
    """One mover as its agent sees it. ``phase``: starting, listening, connected, transferring, done, failed.

    ``route``: once connected, of a mover on a proxy (since 1.1). ``notes``: once connected, what people should know of
    it (since 1.3).
    """

    mover: str
    task_id: str
    phase: str
    counters: TransferCounters = TransferCounters()
    result: MoverResult | None = None
    error: ErrorRecord | None = None
    route: Route | None = None
    notes: tuple[str, ...] = ()


class MoverList(Reply, frozen=True, tag=True, kw_only=True):
    movers: tuple[MoverState, ...]


class MoverChanged(Push, frozen=True, tag=True, kw_only=True):
    """A mover connected, made progress (at most about twice a second), finished or failed."""

    lease: str
    state: MoverState
