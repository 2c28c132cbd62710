"""The movers of one task, and what each has told of itself. Pure; :mod:`.movers` starts, asks and stops them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import msgspec

from holdfast_agent.errors import ErrorRecord, MoverDied, TreesDiffer
from holdfast_agent.model.rules import Route, TransferRules
from holdfast_agent.model.stats import TransferCounters, joined
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import MoverResult

from .events import TaskKey
from .routing import NO_WAYS, Ways

_CONNECTED = frozenset({"connected", "transferring", "done"})
_OVER = frozenset({"failed", "done"})
_SECONDARY = frozenset({"connection_lost", "cancelled", "unreachable", "record_rejected"})
"""What a mover tells whose peer is gone: the cause is the peer's to tell."""


class Outcome(msgspec.Struct, frozen=True):
    """What a finished pair achieved: the listener's and the connector's results and the merged counters."""

    listener: MoverResult
    connector: MoverResult
    counters: TransferCounters


@dataclass
class MoverPair:
    """``listener`` at ``repository`` and ``connector`` at ``proxy``, which are names of agents.

    ``listener_sends``: as the readers of restores do. ``missed``: the session knows of changes that an audit found.
    ``settled``: it has an end that the session knows. ``give_up_at``: until then its failure may get a better cause.
    """

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
        """(agent, mover) of all of them."""
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

    def ways(self) -> Ways:
        """The ways that the task's data takes; empty before its movers are connected, or if unknown."""
        route = self.route()
        if route is None:
            return Ways(self.fed_by) if self.local else NO_WAYS
        if self.local:  # the only way is that from a feeder
            return Ways((route.repository, route.proxy))
        own = (route.repository, route.proxy) if self.listener_sends else (route.proxy, route.repository)
        return Ways(own, self.fed_by)

    def counters(self) -> TransferCounters:
        """Of all its movers together."""
        states = [self.states[mover] for mover in self.names() if mover in self.states]
        return functools.reduce(joined, [state.counters for state in states]) if states else TransferCounters()

    @property
    def failed(self) -> bool:
        """One of its movers has."""
        return any(state.phase == "failed" for state in self.states.values())

    @property
    def all_connected(self) -> bool:
        return self._all_in(_CONNECTED)

    @property
    def over(self) -> bool:
        """None of its movers has anything more to tell."""
        return self._all_in(_OVER)

    def _all_in(self, phases: frozenset[str]) -> bool:
        states = [self.states.get(mover) for _, mover in self.movers()]
        return all(state is not None and state.phase in phases for state in states)

    def errors(self) -> list[ErrorRecord]:
        """What its movers failed with, in the order in which they were first heard of."""
        return [state.error for state in self.states.values() if state.error is not None]

    def cause(self) -> ErrorRecord | None:
        """Of its errors the first that is no consequence of another's."""
        return next((error for error in self.errors() if error.code not in _SECONDARY), None)

    def outcome(self) -> Outcome:
        """Of a pair that is done. Raises :class:`MoverDied` without results, :class:`TreesDiffer`."""
        listener, connector = (self.states[mover].result for mover in (self.listener, self.connector))
        if listener is None or connector is None:
            raise MoverDied(role="source", task=str(self.task), reason="it gave no result")
        if None not in (listener.root, connector.root) and listener.root != connector.root:
            raise TreesDiffer(disk=str(self.task))
        return Outcome(listener, connector, self.counters())
