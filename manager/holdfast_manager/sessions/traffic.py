"""A session's part in keeping the limits: it enters its tasks into the ledger and tells their movers their shares."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import msgspec

from holdfast_agent.errors import HoldfastError

from ..traffic.ledger import TrafficLedger
from ..traffic.rules import Transfer
from ..traffic.shares import UNLIMITED, Share
from .events import TaskKey
from .routing import Ways

log = logging.getLogger(__name__)


class Desk(Protocol):
    """What is needed of :class:`~.movers.MoverDesk`."""

    def limit(self, task: TaskKey, share: Share) -> None: ...

    def ways(self, task: TaskKey) -> Ways: ...


class _Member(msgspec.Struct):
    """A task that transfers: its number in the catalogue, what is known of its way, what its movers were told.

    ``most``: what it may send for a reason of its own, whatever share it has.
    """

    number: int
    transfer: Transfer
    told: Share = UNLIMITED
    most: Share = UNLIMITED


class SessionTraffic:
    """All tasks of one session that transfer. Thread-safe.

    ``look`` is called every second or so from a thread of its own, since it may wait for agents: a rule that was
    edited, a window that opens and a task that came or went elsewhere are heeded there. Rates are lowered at the
    movers first and raised in the ledger first (:class:`TrafficLedger` says why).
    """

    def __init__(self, ledger: TrafficLedger, session: int, desk: Desk, job: str = "") -> None:
        self._ledger = ledger
        self._session = session
        self._desk = desk
        self._job = job
        self._lock = threading.Lock()
        self._members: dict[TaskKey, _Member] = {}

    def join(self, task: TaskKey, number: int, reads: str = "", writes: str = "", own_limit: int | None = None) -> None:
        """``task`` is connected and about to transfer. When this returns its movers have a share, if any limit holds.

        ``number``: its number in the catalogue. ``reads`` and ``writes``: repositories, "" for none. ``own_limit``: of
        all tasks of the session together, where it has one that no job knows.
        """
        told = Transfer(reads=reads, writes=writes, job=self._job, own_limit=own_limit)
        transfer = _by_way(told, self._desk.ways(task))
        with self._lock:
            self._members[task] = _Member(number, transfer)
            self._ledger.begin(self._session, number, transfer)
            self._share_out()

    def hold(self, task: TaskKey, most: Share) -> None:
        """``task`` may send so much at most from now on, of whatever share it has."""
        with self._lock:
            if task in self._members:
                self._members[task].most = most
                self._share_out()

    def leave(self, task: TaskKey) -> None:
        """``task`` no longer transfers: the others get its share. Idempotent."""
        with self._lock:
            member = self._members.pop(task, None)
            if member is not None:
                self._ledger.end(self._session, member.number)
                if self._members:
                    self._share_out()

    def look(self) -> None:
        """Heed what has changed since the last time."""
        with self._lock:
            if self._members:
                self._follow_ways()
                self._share_out()

    def renew(self) -> None:
        """Keep the shares; called as often as the session's other leases are renewed."""
        self._ledger.renew(self._session)

    def _follow_ways(self) -> None:
        """A connection that broke may have come back by another way."""
        for task, member in self._members.items():
            ways = self._desk.ways(task)
            transfer = _by_way(member.transfer, ways)
            if ways.own[0] and transfer != member.transfer:
                member.transfer = transfer
                self._ledger.begin(self._session, member.number, member.transfer)

    def _share_out(self) -> None:
        shares = self._ledger.shares(self._session)
        by_number = {member.number: task for task, member in self._members.items()}
        lowered: dict[int, int] = {}
        wishes_more = False
        for number, task in by_number.items():
            if number not in shares:  # the session slept longer than its lease
                self._ledger.begin(self._session, number, self._members[task].transfer)
                wishes_more = True
                continue
            has, share = shares[number]
            if _less(has, share):
                wishes_more = True
                share = Share(has.bytes_per_s, share.by)
            if share.bytes_per_s == 0:
                continue  # nothing was decided yet: raising does
            obeyed = self._tell(task, share)
            if obeyed and share.bytes_per_s is not None and _less(share, has):
                lowered[number] = share.bytes_per_s
        if lowered:
            self._ledger.lowered(self._session, lowered)
        if wishes_more:
            for number, share in self._ledger.raise_rates(self._session).items():
                if number in by_number:
                    self._tell(by_number[number], share)

    def _tell(self, task: TaskKey, share: Share) -> bool:
        """Whether the task's movers have obeyed. What failed is told again at the next look."""
        member = self._members[task]
        if _less(member.most, share):
            share = member.most
        if member.told != share:
            try:
                self._desk.limit(task, share)
            except HoldfastError as error:  # its movers are ending or its agent is lost, which their own events tell
                log.info("no new share for %s: %s", task, error)
                return False
            member.told = share
        return True


def _by_way(transfer: Transfer, ways: Ways) -> Transfer:
    (source, target), (fed_source, fed_target) = ways
    return msgspec.structs.replace(transfer, source=source, target=target, fed_source=fed_source, fed_target=fed_target)


def _less(one: Share, other: Share) -> bool:
    """Whether ``one`` is less than ``other``."""
    if one.bytes_per_s is None:
        return False
    return other.bytes_per_s is None or one.bytes_per_s < other.bytes_per_s
