"""Pairs of movers: one listening on the repository, one connecting from the proxy. Backups and restores alike.

Where both are one agent, the pair is one process and needs no network.

The desk starts a pair, listens to what both agents tell of it, and turns that into the task's events. A copy's pair has
a third, the feeder: a reader at another repository that the connector reads from.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from holdfast_agent.errors import (
    AgentAway,
    ConnectionLost,
    ErrorRecord,
    HoldfastError,
    MoverDied,
    RepositoryAway,
    TreesDiffer,
)
from holdfast_agent.model.rules import Route, TransferRules
from holdfast_agent.model.stats import TransferCounters, joined
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.wire.messages import (
    BeginTransfer,
    ChangeRules,
    Done,
    ListMovers,
    MoverChanged,
    MoverList,
    MoverStarted,
    MoverState,
    PrepareMover,
    StartMover,
    StopMover,
)
from holdfast_agent.wire.specs import (
    AnySpec,
    BenchmarkSpec,
    CheckerSpec,
    MoverResult,
    Order,
    OriginSpec,
    PairSpec,
    ReaderSpec,
    SourceSpec,
    TargetSpec,
    WriterSpec,
)

from ..traffic.shares import Share
from .agents import AgentPool
from .events import ChangesMissed, Event, MoversConnected, TaskFailed, TaskKey, TransferFinished
from .routing import Routing, Ways
from .steps import Step

Endpoints = tuple[str, ...]
AnyListener = TargetSpec | ReaderSpec | BenchmarkSpec
MakeListener = Callable[[str, bytes], AnyListener]
MakeConnector = Callable[[str, bytes, Endpoints], SourceSpec | WriterSpec | CheckerSpec]

_PAIR_SINCE = 3  # minor version of the control protocol
_CONNECTED = frozenset({"connected", "transferring", "done"})
# When one mover fails, the other soon reports that its peer is gone. The first cause is worth a moment's wait.
_SECONDARY = frozenset({"connection_lost", "cancelled", "unreachable", "record_rejected"})
_CAUSE_WAIT_S = 3.0


class Outcome(msgspec.Struct, frozen=True):
    """What a finished pair achieved: the listener's and the connector's results and the merged counters."""

    listener: MoverResult
    connector: MoverResult
    counters: TransferCounters


class Feeder(msgspec.Struct, frozen=True):
    """Where a copy's source mover reads: a repository at ``path`` of ``agent``, opened by ``keys``."""

    agent: str
    path: str
    keys: DataKeys


@dataclass
class _Pair:
    task: TaskKey
    repository: str
    proxy: str
    listener: str
    connector: str
    feeder: tuple[str, str] | None = None
    fed_by: tuple[str, str] = ("", "")
    """The way from a feeder, before the mover that connects to it has told it."""
    rules: TransferRules = field(default_factory=TransferRules)
    listener_sends: bool = False
    states: dict[str, MoverState] = field(default_factory=dict)
    connected: bool = False
    missed: bool = False
    settled: bool = False
    give_up_at: float | None = None

    @property
    def local(self) -> bool:
        """Both are one process on one host."""
        return self.connector == self.listener

    def names(self) -> tuple[str, ...]:
        """Of the movers that carry the task out, the leading one first: one where proxy and repository are one host."""
        return tuple(dict.fromkeys((self.connector, self.listener)))

    def movers(self) -> tuple[tuple[str, str], ...]:
        pair = tuple(zip((self.proxy, self.repository), self.names(), strict=False))
        return pair if self.feeder is None else (*pair, self.feeder)

    def senders(self) -> tuple[tuple[str, str], ...]:
        """The movers that send in bulk, which are the ones that limit. What a feeder sends goes on from here."""
        sender = (self.repository, self.listener) if self.listener_sends else (self.proxy, self.connector)
        return (sender,) if self.feeder is None else (sender, self.feeder)

    def route(self) -> Route | None:
        """The way that the connection takes, once the connector has told it."""
        state = self.states.get(self.connector)
        return state.route if state is not None else None

    def counters(self) -> TransferCounters:
        """Of all its movers together."""
        states = [self.states[mover] for mover in self.names() if mover in self.states]
        return functools.reduce(joined, [state.counters for state in states]) if states else TransferCounters()


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
        self._pairs: dict[TaskKey, _Pair] = {}
        self._by_mover: dict[str, _Pair] = {}
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
        pair = _Pair(task, repository, proxy, f"{token}-listener", f"{token}-connector")
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

    def _listen(self, pair: _Pair, listener: AnyListener) -> tuple[Endpoints, int | None]:
        """Start the mover that listens: where, in the order to be tried, and over how many streams by the rules."""
        self._prepare(pair.proxy, pair.connector, pair.task)
        endpoints = self._start(pair.repository, pair.listener, listener)
        return self._routing.choose(pair.proxy, endpoints, not pair.listener_sends)

    def _prepare(self, agent: str, mover: str, task: TaskKey) -> None:
        """A head start for the mover that connects; what is wrong with its agent shows when it is started."""
        with contextlib.suppress(HoldfastError):
            self._pool.ask(agent, PrepareMover(lease=self._pool.lease, mover=mover, task_id=f"{task}"), Done)

    def _feed(self, pair: _Pair, feeder: Feeder) -> OriginSpec:
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
            route = pair.route() if pair is not None else None
        if pair is None or route is None:
            return Ways(pair.fed_by if pair is not None and pair.local else ("", ""))
        if pair.local:  # the only way is that from a feeder
            return Ways((route.repository, route.proxy))
        own = (route.repository, route.proxy) if pair.listener_sends else (route.proxy, route.repository)
        return Ways(own, pair.fed_by)

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

    def _judge(self, pair: _Pair) -> None:
        states = [pair.states.get(mover) for _, mover in pair.movers()]
        known = [state for state in states if state is not None]
        counters = pair.counters()
        self._progress(pair.task, counters)
        if counters.missed_blocks and not pair.missed:
            pair.missed = True
            audited, missed = counters.audited_blocks, counters.missed_blocks
            self._post(ChangesMissed(task=pair.task, audited=audited, missed=missed))
        if any(state.phase == "failed" for state in known):
            causes = [state.error for state in known if state.error is not None and state.error.code not in _SECONDARY]
            if causes or (all(state.phase in ("failed", "done") for state in known) and len(known) == len(states)):
                self._settle_failed(pair)
            elif pair.give_up_at is None:
                pair.give_up_at = time.monotonic() + _CAUSE_WAIT_S
            return
        if not pair.connected and len(known) == len(states) and all(state.phase in _CONNECTED for state in known):
            pair.connected = True
            route = pair.route()
            source, target = self.ways(pair.task).own
            self._post(
                MoversConnected(
                    task=pair.task,
                    source=source,
                    target=target,
                    streams=route.streams if route else 0,
                    local=pair.local,
                )
            )
        if len(known) == len(states) and all(state.phase == "done" for state in known):
            self._settle_done(pair)

    def _settle_done(self, pair: _Pair) -> None:
        pair.settled = True
        listener, connector = (pair.states[mover].result for mover in (pair.listener, pair.connector))
        if listener is None or connector is None:
            self._fail(pair, MoverDied(role="source", task=str(pair.task), reason="it gave no result").to_record())
        elif None not in (listener.root, connector.root) and listener.root != connector.root:
            self._fail(pair, TreesDiffer(disk=str(pair.task)).to_record())
        else:
            with self._lock:
                self._outcomes[pair.task] = Outcome(listener, connector, pair.counters())
            event = TransferFinished(
                task=pair.task, mode=connector.mode, reason=connector.reason, unused=connector.unused
            )
            self._post(event)

    def _settle_failed(self, pair: _Pair) -> None:
        if pair.settled:
            return
        pair.settled = True
        errors = [state.error for state in pair.states.values() if state.error is not None]
        errors.sort(key=lambda error: error.code in _SECONDARY)
        self._fail(pair, errors[0] if errors[0].code not in _SECONDARY else self._agent_lost_by(pair) or errors[0])

    def _agent_lost_by(self, pair: _Pair) -> ErrorRecord | None:
        """Of a pair without another cause: the one of its agents that is not heard any more."""
        for agent, _ in pair.movers():
            if not self._pool.is_connected(agent):
                return ConnectionLost(peer=f"the agent {agent}", reason="in mid-transfer").to_record()
        return None

    def _fail(self, pair: _Pair, error: ErrorRecord) -> None:
        self._post(TaskFailed(task=pair.task, error=error, at=Step.TRANSFER if pair.connected else Step.CONNECT))

    def _fail_all(self, pairs: list[_Pair], error: HoldfastError) -> None:
        for pair in pairs:
            if not pair.settled:
                pair.settled = True
                self._fail(pair, error.to_record())

    def _pair(self, task: TaskKey) -> _Pair:
        with self._lock:
            pair = self._pairs.get(task)
        if pair is None:
            raise ConnectionLost(peer=str(task), reason="its movers were stopped meanwhile")
        return pair
