"""Pairs of movers: one listening on the repository, one connecting from the proxy. Backups and restores alike.

Where both are one agent, the pair is one process and needs no network.

The desk starts a pair, listens to what both agents tell of it, and turns that into the task's events. A copy's pair has
a third, the feeder: a reader at another repository that the connector reads from.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable

import msgspec

from holdfast_agent.errors import (
    AgentAway,
    ConnectionLost,
    ErrorRecord,
    HoldfastError,
    MoverDied,
    RepositoryAway,
)
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.wire.messages import (
    BeginTransfer,
    ChangeRules,
    Done,
    ListMovers,
    MoverChanged,
    MoverList,
    MoverStarted,
    PrepareMover,
    StartMover,
    StopMover,
)
from holdfast_agent.wire.specs import (
    AnySpec,
    BenchmarkSpec,
    CheckerSpec,
    Order,
    OriginSpec,
    PairSpec,
    ReaderSpec,
    SourceSpec,
    TargetSpec,
    WriterSpec,
)
from holdfast_manager.steps import Step

from ..traffic.shares import Share
from .agents import AgentPool
from .events import ChangesMissed, Event, MoversConnected, TaskFailed, TaskKey, TransferFinished
from .mover_pair import MoverPair, Outcome
from .routing import NO_WAYS, Routing, Ways

Endpoints = tuple[str, ...]
AnyListener = TargetSpec | ReaderSpec | BenchmarkSpec
MakeListener = Callable[[str, bytes], AnyListener]
MakeConnector = Callable[[str, bytes, Endpoints], SourceSpec | WriterSpec | CheckerSpec]

_PAIR_SINCE = 3  # minor version of the control protocol
_CAUSE_WAIT_S = 3.0
"""When one mover fails, the other soon reports that its peer is gone. The first cause is worth a moment's wait."""


class Feeder(msgspec.Struct, frozen=True):
    """Where a copy's source mover reads: a repository at ``path`` of ``agent``, opened by ``keys``."""

    agent: str
    path: str
    keys: DataKeys


class MoverDesk:
    """All pairs of one session. ``deliver`` and ``tick`` belong to the driver's thread; the rest to any thread."""

    def __init__(
        self,
        pool: AgentPool,
        routing: Routing,
        post: Callable[[Event], None],
        progress: Callable[[TaskKey, TransferCounters], None],
    ) -> None:
        self._pool = pool
        self._routing = routing
        self._post = post
        self._progress = progress
        self._lock = threading.Lock()
        self._pairs: dict[TaskKey, MoverPair] = {}
        self._by_mover: dict[str, MoverPair] = {}
        self._outcomes: dict[TaskKey, Outcome] = {}

    def start(
        self,
        task: TaskKey,
        repository: str,
        make_listener: MakeListener,
        proxy: str,
        make_connector: MakeConnector,
        feeder: Feeder | None = None,
    ) -> None:
        """Start the movers of ``task``; MoversConnected follows. Raises typed errors; then ``stop`` clears up.

        ``feeder``: for a connector that is a source, what it reads instead of a disk.
        """
        token = secrets.token_hex(6)
        pair = MoverPair(task, repository, proxy, f"{token}-listener", f"{token}-connector")
        if proxy == repository and self._pool.understands(proxy, _PAIR_SINCE):
            pair.listener = pair.connector
        if feeder is not None:
            pair.feeder = (feeder.agent, f"{token}-feeder")
        with self._lock:
            self._pairs[task] = pair
            self._outcomes.pop(task, None)
            self._by_mover |= {mover: pair for _, mover in pair.movers()}
        secret = secrets.token_bytes(32)
        name = f"{task}"
        listener = make_listener(name, secret)
        pair.listener_sends = isinstance(listener, ReaderSpec)
        endpoints, streams = ((), None) if pair.local else self._listen(pair, listener)
        connector = make_connector(name, secret, endpoints)
        if feeder is not None and isinstance(connector, SourceSpec):
            connector = msgspec.structs.replace(connector, origin=self._feed(pair, feeder))
        if streams is not None:
            rules = msgspec.structs.replace(connector.rules, streams=streams)
            connector = msgspec.structs.replace(connector, rules=rules)
        pair.rules = connector.rules
        spec = PairSpec(task_id=name, secret=secret, leader=connector, follower=listener) if pair.local else connector
        self._start(proxy, pair.connector, spec)

    def _listen(self, pair: MoverPair, listener: AnyListener) -> tuple[Endpoints, int | None]:
        """Start the mover that listens: where, in the order to be tried, and over how many streams by the rules."""
        self._prepare(pair.proxy, pair.connector, pair.task)
        endpoints = self._start(pair.repository, pair.listener, listener)
        return self._routing.choose(pair.proxy, endpoints, not pair.listener_sends)

    def _prepare(self, agent: str, mover: str, task: TaskKey) -> None:
        """A head start for the mover that connects; what is wrong with its agent shows when it is started."""
        with contextlib.suppress(HoldfastError):
            self._pool.ask(agent, PrepareMover(lease=self._pool.lease, mover=mover, task_id=f"{task}"), Done)

    def _feed(self, pair: MoverPair, feeder: Feeder) -> OriginSpec:
        secret = secrets.token_bytes(32)
        spec = ReaderSpec(task_id=f"{pair.task}", secret=secret, repository=feeder.path)
        endpoints = self._start(feeder.agent, pair.movers()[-1][1], spec)
        endpoints, _ = self._routing.choose(pair.proxy, endpoints, False)
        if feeder.agent != pair.proxy:  # else no network lies between
            pair.fed_by = self._routing.likely_way(pair.proxy, endpoints[0])
        return OriginSpec(secret=secret, endpoints=endpoints, keys=feeder.keys)

    def _start(self, agent: str, mover: str, spec: AnySpec) -> Endpoints:
        request = StartMover(lease=self._pool.lease, mover=mover, spec=spec)
        return self._pool.ask(agent, request, MoverStarted).endpoints

    def begin(self, task: TaskKey, order: Order) -> None:
        """Give the pair's connector its order; TransferFinished or TaskFailed follows."""
        pair = self._pair(task)
        request = BeginTransfer(lease=self._pool.lease, mover=pair.connector, order=order)
        self._pool.ask(pair.proxy, request, Done)

    def limit(self, task: TaskKey, share: Share) -> None:
        """From now on the task's movers send no more than its share. Raises typed errors.

        Never waits for an agent that was lost: it is told again.
        """
        pair = self._pair(task)
        rules = msgspec.structs.replace(pair.rules, bandwidth_bytes_per_s=share.bytes_per_s, limited_by=share.by)
        for agent, mover in pair.senders():
            if not self._pool.is_connected(agent):
                raise ConnectionLost(peer=agent, reason="it is being looked for")
            self._pool.ask(agent, ChangeRules(lease=self._pool.lease, mover=mover, rules=rules), Done)

    def ways(self, task: TaskKey) -> Ways:
        """The ways that the task's data takes; empty before its movers are connected, or if unknown."""
        with self._lock:
            pair = self._pairs.get(task)
        return pair.ways() if pair is not None else NO_WAYS

    def outcome(self, task: TaskKey) -> Outcome:
        """What a finished pair achieved; known until the task is started anew. Raises ``MoverDied`` without one."""
        with self._lock:
            outcome = self._outcomes.get(task)
        if outcome is None:
            raise MoverDied(role="source", task=str(task), reason="it ended without a result")
        return outcome

    def stop(self, task: TaskKey) -> None:
        """Stop both movers and forget the pair; what they still say is not heard. Idempotent, never raises."""
        with self._lock:
            pair = self._pairs.pop(task, None)
            if pair is None:
                return
            for _, mover in pair.movers():
                self._by_mover.pop(mover, None)
        for agent, mover in pair.movers():
            with contextlib.suppress(HoldfastError):
                stop = StopMover(lease=self._pool.lease, mover=mover, reason="the task was stopped")
                self._pool.dismiss(agent, stop)

    def deliver(self, push: MoverChanged) -> None:
        """An agent told something of a mover."""
        with self._lock:
            pair = self._by_mover.get(push.state.mover)
        if pair is not None and not pair.settled:
            pair.states[push.state.mover] = push.state
            self._judge(pair)

    def agent_lost(self, agent: str) -> None:
        """The connection to an agent broke: connect again and adopt its movers, or fail their tasks. Blocks."""
        with self._lock:
            touched = [pair for pair in self._pairs.values() if agent in {where for where, _ in pair.movers()}]
        if not touched:
            return
        try:
            listed = self._pool.insist(agent, ListMovers(lease=self._pool.lease), MoverList)
        except AgentAway as error:
            away = RepositoryAway(**error.fields)
            self._fail_all([pair for pair in touched if pair.repository == agent], away)
            self._fail_all([pair for pair in touched if pair.repository != agent], error)
            return
        except HoldfastError as error:
            self._fail_all(touched, error)
            return
        known = {state.mover: state for state in listed.movers}
        for pair in touched:
            for where, mover in pair.movers():
                if where == agent and mover not in known:
                    self._fail_all([pair], MoverDied(role=mover, task=str(pair.task), reason="its agent was restarted"))
        for state in listed.movers:
            self.deliver(MoverChanged(lease=self._pool.lease, state=state))

    def tick(self) -> None:
        """Called about every second: decide pairs that waited for a second opinion."""
        now = time.monotonic()
        with self._lock:
            overdue = [pair for pair in self._pairs.values() if pair.give_up_at is not None and now >= pair.give_up_at]
        for pair in overdue:
            self._settle_failed(pair)

    def _judge(self, pair: MoverPair) -> None:
        """What became of a pair, now that one of its movers has told something."""
        counters = pair.counters()
        self._progress(pair.task, counters)
        if counters.missed_blocks and not pair.missed:
            pair.missed = True
            audited, missed = counters.audited_blocks, counters.missed_blocks
            self._post(ChangesMissed(task=pair.task, audited=audited, missed=missed))
        if pair.failed:
            if pair.cause() is not None or pair.over:
                self._settle_failed(pair)
            elif pair.give_up_at is None:
                pair.give_up_at = time.monotonic() + _CAUSE_WAIT_S
            return
        if pair.all_connected and not pair.connected:
            pair.connected = True
            self._post(self._connected(pair))
        if pair.over:
            self._settle_done(pair)

    def _connected(self, pair: MoverPair) -> MoversConnected:
        route = pair.route()
        source, target = pair.ways().own
        streams = route.streams if route else 0
        return MoversConnected(task=pair.task, source=source, target=target, streams=streams, local=pair.local)

    def _settle_done(self, pair: MoverPair) -> None:
        pair.settled = True
        try:
            outcome = pair.outcome()
        except HoldfastError as error:
            self._fail(pair, error.to_record())
            return
        with self._lock:
            self._outcomes[pair.task] = outcome
        done = outcome.connector
        self._post(TransferFinished(task=pair.task, mode=done.mode, reason=done.reason, unused=done.unused))

    def _settle_failed(self, pair: MoverPair) -> None:
        if not pair.settled:
            pair.settled = True
            self._fail(pair, pair.cause() or self._agent_lost_by(pair) or pair.errors()[0])

    def _agent_lost_by(self, pair: MoverPair) -> ErrorRecord | None:
        """Of a pair without another cause: the one of its agents that is not heard any more."""
        for agent, _ in pair.movers():
            if not self._pool.is_connected(agent):
                return ConnectionLost(peer=f"the agent {agent}", reason="in mid-transfer").to_record()
        return None

    def _fail(self, pair: MoverPair, error: ErrorRecord) -> None:
        self._post(TaskFailed(task=pair.task, error=error, at=Step.TRANSFER if pair.connected else Step.CONNECT))

    def _fail_all(self, pairs: list[MoverPair], error: HoldfastError) -> None:
        for pair in pairs:
            if not pair.settled:
                pair.settled = True
                self._fail(pair, error.to_record())

    def _pair(self, task: TaskKey) -> MoverPair:
        with self._lock:
            pair = self._pairs.get(task)
        if pair is None:
            raise ConnectionLost(peer=str(task), reason="its movers were stopped meanwhile")
        return pair
