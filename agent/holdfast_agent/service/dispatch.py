"""The one table of what a manager may ask, and the order in which a request is checked.

Authenticated and still authorised → well-formed and known → greeted → role → handler. A message without an entry
in the table is refused; a test holds the table against all request types.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import holdfast_agent
from holdfast_agent.channel.authentication import check_public_key
from holdfast_agent.channel.control_server import Connection, Incoming
from holdfast_agent.errors import (
    ConnectionLost,
    HoldfastError,
    NotAuthorised,
    RoleMissing,
    UnknownMessage,
    VersionMismatch,
)
from holdfast_agent.wire import codec
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

from . import (
    collection,
    comparison,
    counting,
    exports,
    health,
    lease_handlers,
    proxy_handlers,
    repositories,
    retention_handlers,
    session_handlers,
    verification,
)
from .agent import Agent
from .calls import Call
from .leases import check_name
from .workers import guarded

FORGET_AFTER_S: Final = 60.0
"""A connection that said nothing for so long must greet again; a client's heartbeats come every 10 s or sooner."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """``role``: which role the agent must have, or None. ``handler`` runs in the loop's thread and must not block."""

    role: str | None
    handler: Callable[[Agent, Call[Any]], None]


def _hello(agent: Agent, call: Call[m.Hello]) -> None:
    settings = agent.settings
    call.reply(
        m.HelloReply(
            major=PROTOCOL_MAJOR,
            minor=PROTOCOL_MINOR,
            software=holdfast_agent.__version__,
            clock=time.time(),
            agent=settings.agent_name,
            roles=settings.roles,
            proxy_slots=settings.proxy.slot_count if settings.proxy else 0,
            repository_slots=settings.repository.slot_count if settings.repository else 0,
            disk_schemes=agent.disk_schemes,
            tools=agent.tools,
            addresses=agent.host.advertised_addresses,
        )
    )


def _enrol(agent: Agent, call: Call[m.Enrol]) -> None:
    """The token first: if what follows fails, its owner makes another; it never serves twice."""
    request = call.request
    check_public_key(request.key)
    check_name("manager", request.name)
    if not agent.tokens.spend(call.key):
        raise NotAuthorised(peer=call.key, reason="only a one-time token enrols a manager, and once")
    agent.authorised.add(request.key, request.name)
    _log.warning("the manager %s (%s) has enrolled itself by a token", request.key, request.name)
    call.reply(m.Done())


def _heartbeat(agent: Agent, call: Call[m.Heartbeat]) -> None:
    call.reply(m.Done())


ROUTES: Final[dict[type[m.Request], Route]] = {
    m.Hello: Route(None, _hello),
    m.Heartbeat: Route(None, _heartbeat),
    m.Enrol: Route(None, _enrol),
    m.AskHealth: Route(None, health.report_health),
    m.RenewLease: Route(None, lease_handlers.renew_lease),
    m.CloseLease: Route(None, lease_handlers.close_lease),
    m.PrepareMover: Route("proxy", lease_handlers.prepare_mover),
    m.StartMover: Route(None, lease_handlers.start_mover),  # which role depends on the specification; it checks
    m.BeginTransfer: Route("proxy", lease_handlers.begin_transfer),
    m.ChangeRules: Route(None, lease_handlers.change_rules),
    m.StopMover: Route(None, lease_handlers.stop_mover),
    m.ListMovers: Route(None, lease_handlers.list_movers),
    m.ProbeDisk: Route("proxy", proxy_handlers.probe_disk),
    m.ListExports: Route("proxy", exports.list_exports),
    m.DiscardExport: Route("proxy", exports.discard_export),
    m.CreateRepository: Route("repository", repositories.create_repository),
    m.AddKeySlot: Route("repository", repositories.add_key_slot),
    m.RemoveKeySlot: Route("repository", repositories.remove_key_slot),
    m.RaiseKeyEpoch: Route("repository", repositories.raise_key_epoch),
    m.OpenRepository: Route("repository", repositories.open_repository),
    m.ListPoints: Route("repository", repositories.list_points),
    m.ReadPoint: Route("repository", repositories.read_point),
    m.CompareTrees: Route("repository", comparison.compare_trees),
    m.TombstonePoints: Route("repository", retention_handlers.tombstone_points),
    m.UndoTombstone: Route("repository", retention_handlers.undo_tombstone),
    m.RetainPoint: Route("repository", retention_handlers.retain_point),
    m.RepositoryStatistics: Route("repository", counting.repository_statistics),
    m.BeginSession: Route("repository", session_handlers.begin_session),
    m.StoreBlob: Route("repository", session_handlers.store_blob),
    m.ReadBlob: Route("repository", repositories.read_blob),
    m.CommitSession: Route("repository", session_handlers.commit_session),
    m.AbortSession: Route("repository", session_handlers.abort_session),
    m.VerifyRepository: Route("repository", verification.verify_repository),
    m.StopVerification: Route("repository", verification.stop_verification),
    m.CollectGarbage: Route("repository", collection.collect_garbage),
    m.RebuildIndex: Route("repository", repositories.rebuild_index),
}


class Dispatcher:
    """Turns what arrives into calls of handlers. Used by the loop's thread only."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._last_heard: dict[Connection, float] = {}
        self.stopping = False

    def handle(self, incoming: Incoming) -> None:
        """Answer a request, now or later; every outcome but a vanished manager is answered."""
        connection, correlation = incoming.connection, incoming.correlation
        send = self._agent.server.send

        def reply(message: m.Reply) -> None:
            send(connection, correlation, message)

        try:
            request = self._checked(incoming)
        except HoldfastError as error:
            _log.warning("refused a request of %s: %s", connection.key, error)
            reply(m.Failure(error=error.to_record()))
            return
        call = Call(connection, request, reply)
        route = ROUTES[type(request)]
        outcome = guarded(type(request).__name__, lambda: route.handler(self._agent, call))
        if outcome is not None and not call.answered:
            call.fail(outcome)

    def forget_silent(self) -> None:
        """Drop connections that are long silent or whose key is not authorised any more; called now and then."""
        earliest = self._agent.clock() - FORGET_AFTER_S
        for connection, heard in list(self._last_heard.items()):
            if heard < earliest or not (
                self._agent.admits(connection.key) or self._agent.tokens.admits(connection.key)
            ):
                del self._last_heard[connection]

    def _checked(self, incoming: Incoming) -> m.Request:
        connection = incoming.connection
        by_token = not self._agent.admits(connection.key)
        if by_token and not self._agent.tokens.admits(connection.key):
            self._last_heard.pop(connection, None)
            raise NotAuthorised(peer=connection.key, reason="its key is not authorised any more")
        if self.stopping:
            raise ConnectionLost(peer=self._agent.settings.agent_name, reason="the agent is stopping")
        request = codec.decode_request(incoming.frame, connection.key)
        self._check_greeting(connection, request)
        if by_token and not isinstance(request, (m.Hello, m.Enrol)):
            raise NotAuthorised(peer=connection.key, reason="a token enrols a manager, and does nothing else")
        self._check_role(request)
        return request

    def _check_greeting(self, connection: Connection, request: m.Request) -> None:
        if isinstance(request, m.Hello):
            if request.major != PROTOCOL_MAJOR:
                raise VersionMismatch(theirs=request.major, ours=PROTOCOL_MAJOR, peer="the manager")
        elif connection not in self._last_heard:
            raise NotAuthorised(peer=connection.key, reason="the first message of a connection must be Hello")
        self._last_heard[connection] = self._agent.clock()

    def _check_role(self, request: m.Request) -> None:
        route = ROUTES.get(type(request))
        name = type(request).__name__
        if route is None:
            raise UnknownMessage(type=name)
        settings = self._agent.settings
        if route.role is not None and route.role not in settings.roles:
            raise RoleMissing(agent=settings.agent_name, role=route.role, type=name)
