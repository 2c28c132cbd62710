"""The work of a mover process: setup, connection, transfer."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from holdfast_agent.channel.data_connection import DataConnection
from holdfast_agent.errors import Unreachable, UsageError
from holdfast_agent.model.rules import Route
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.prctl import name_process
from holdfast_agent.wire.movers import Connected, Finished, Listening, MoverHost
from holdfast_agent.wire.specs import (
    BenchmarkSpec,
    BootSpec,
    CheckerSpec,
    ExporterSpec,
    FilesSpec,
    MoverResult,
    PairSpec,
    ReaderSpec,
    SourceSpec,
    TargetSpec,
    WriterSpec,
)

from .control import Control
from .life import live
from .line import LocalLine, Peer
from .role import Role, counted, drive, drive_pair
from .route import route_to

if TYPE_CHECKING:  # each process loads the roles that it plays
    from .reader import Reader
    from .target import Target

NAME: Final = "holdfast-mover"
"""As `ps -o comm` and `pgrep` show it, whichever way it came to be."""
_CLOSE_S = 5.0
_STEP_S = 0.5
_log = logging.getLogger("holdfast.mover")


def main() -> None:
    """The life of a mover: of ``python -m holdfast_agent.mover``, and of what :mod:`.nursery` forks."""
    name_process(NAME)
    mover = _Mover()
    live("mover", mover.run, mover.counters)


class _Mover:
    def __init__(self) -> None:
        self._roles: list[Role] = []

    def run(self, control: Control) -> Finished:
        """Everything between start and the last report."""
        self._control = control
        try:
            result = self._work()
        except BaseException as problem:
            self._close(problem)
            raise
        self._close(None)
        return Finished(result=result, counters=self.counters())

    def counters(self) -> TransferCounters:
        return counted(self._roles)

    def _work(self) -> MoverResult:
        setup = self._control.setup()
        if isinstance(setup.spec, PairSpec):
            return self._pair(setup.spec, setup.host)
        if isinstance(setup.spec, (TargetSpec, ReaderSpec, BenchmarkSpec)):
            return self._drive(*self._serve(setup.spec, setup.host), lambda _peer: None)
        if isinstance(setup.spec, (ExporterSpec, BootSpec, FilesSpec)):
            raise UsageError(reason="an exporter or a boot proof is another program than a mover")
        streams = setup.spec.rules.streams
        return self._drive(*self._lead(setup.spec, setup.host), lambda peer: route_to(peer, streams))

    def _drive(self, role: Role, connection: DataConnection, route: Callable[[str], Route | None]) -> MoverResult:
        """Tell the way of the connection, now and whenever it had to be made anew, and run the role to its end."""

        def tell_way() -> None:
            self._control.report(Connected(route=route(connection.peer)))

        try:
            tell_way()
        except BaseException:
            connection.abort()
            raise
        return drive(role, connection, self._control, tell_way)

    def _serve(self, spec: TargetSpec | ReaderSpec | BenchmarkSpec, host: MoverHost) -> tuple[Role, DataConnection]:
        """Repository side: open the repository, then listen; only then does anybody learn where."""
        from holdfast_agent.channel.data_listener import DataListener

        role = self._follow(spec, host)
        listener = DataListener(
            host.listen_address,
            host.advertised_addresses[0],
            host.port_range,
            spec.secret,
            timeouts=host.link,
        )
        try:
            endpoints = tuple(listener.endpoint_at(address) for address in host.advertised_addresses)
            self._control.report(Listening(endpoints=endpoints))
            connection = self._await(listener, listener.endpoint, host.connect_timeout_s)
        except BaseException:
            listener.close()
            raise
        role.connected(connection)
        return role, connection

    def _lead(self, spec: SourceSpec | WriterSpec | CheckerSpec, host: MoverHost) -> tuple[Role, DataConnection]:
        """Proxy side: connect to the mover that listens."""
        from holdfast_agent.channel.data_connector import DataConnector

        connector = DataConnector(
            spec.endpoints,
            spec.secret,
            streams=spec.rules.streams,
            timeout_s=host.connect_timeout_s,
            timeouts=host.link,
        )
        try:
            connection = self._await(connector, ", ".join(spec.endpoints), host.connect_timeout_s)
        except BaseException:
            connector.close()
            raise
        role = _leader(spec, host, connection)
        self._roles.append(role)
        return role, connection

    def _pair(self, spec: PairSpec, host: MoverHost) -> MoverResult:
        """Both sides at once, without a network between them."""
        mine, theirs = LocalLine.pair()
        follower = self._follow(spec.follower, host)
        follower.connected(theirs)
        leader = _leader(spec.leader, host, mine)
        self._roles.insert(0, leader)
        self._control.report(Connected())
        self._told_origin = ""
        return drive_pair(leader, follower, (mine, theirs), self._control, partial(self._tell_origin, leader))

    def _tell_origin(self, leader: Role) -> None:
        """Of a copy the way between the repositories is the only one that a network sees."""
        if leader.origin != self._told_origin:
            self._told_origin = leader.origin
            self._control.report(Connected(route=route_to(leader.origin, 1)))

    def _follow(self, spec: TargetSpec | ReaderSpec | BenchmarkSpec, host: MoverHost) -> Target | Reader:
        """The repository's side of a task, its repository open."""
        from .reader import Reader
        from .target import Target

        role = Reader(spec, host) if isinstance(spec, ReaderSpec) else Target(spec, host)
        self._roles.append(role)
        while not role.opened:
            select.select([role.workers.fd, *self._control.fds], [], [], _STEP_S)
            role.workers.take()
            self._control.check()
        return role

    def _await(self, opening: Opening, peer: str, timeout_s: float) -> DataConnection:
        """Wait for the other mover, awake to the agent. Raises :class:`Unreachable` (retryable), Cancelled."""
        deadline = time.monotonic() + timeout_s
        while (connection := opening.poll(_STEP_S, self._control.fds)) is None:
            self._control.check()
            if time.monotonic() > deadline:
                raise Unreachable(peer=peer, timeout_s=timeout_s)
        return connection

    def _close(self, problem: BaseException | None) -> None:
        # The leader first: what its workers have begun must not find the follower closed.
        for role in self._roles:
            if not role.close(problem, _CLOSE_S):
                _log.warning("a thread is still at work; the process ends without it")


class Opening(Protocol):
    """A listener or a connector."""

    def poll(self, timeout_s: float, fds: Iterable[int] = ()) -> DataConnection | None:
        """One step; the connection when it stands."""


def _leader(spec: SourceSpec | WriterSpec | CheckerSpec, host: MoverHost, connection: Peer) -> Role:
    if isinstance(spec, SourceSpec):
        from .source import Source

        return Source(spec, host, connection)
    if isinstance(spec, CheckerSpec):
        from .checker import Checker

        return Checker(spec, host, connection)
    from .writer import Writer

    return Writer(spec, host, connection)
