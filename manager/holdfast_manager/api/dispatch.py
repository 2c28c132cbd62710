"""The one table of what may be asked on the API, and the order in which a request is checked.

Known by a key of an enabled user → well-formed and known → greeted → right → handler. What a command takes beyond that
is decided where it runs, by the table of commands (``rights.commands``), before it does anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import holdfast_agent
from holdfast_agent.channel.control_server import Connection, Incoming
from holdfast_agent.errors import HoldfastError, InternalError, NotAuthorised, UsageError, VersionMismatch
from holdfast_agent.wire.messages import Done, Failure, Heartbeat, Message, Push, Reply, Request
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.roles import Right
from holdfast_manager.rights.values import UserEntry

from .admission import Admission
from .commands import Commands
from .messages import (
    API_MAJOR,
    API_MINOR,
    CommandStarted,
    GiveInput,
    Greet,
    Greeted,
    InterruptCommand,
    ResizeTerminal,
    StartCommand,
    TookOutput,
    decode_request,
)
from .running import Running

FORGET_AFTER_S: Final = 60.0
"""A connection that said nothing for so long is gone; a client's heartbeats come every 10 s or sooner."""

_log = logging.getLogger(__name__)


class Call:
    """One request of one user, with its answer."""

    def __init__(self, connection: Connection, user: UserEntry, request: Any, send: Callable[[Message], bool]) -> None:
        self.connection = connection
        self.user = user
        self.request = request
        self.reply: Callable[[Reply], bool] = send


@dataclass(frozen=True)
class Route:
    """``right``: what it takes; None: to be known. ``handler`` runs in the loop's thread and must not block."""

    right: Right | None
    handler: Callable[[Dispatcher, Call], None]


class Dispatcher:
    """Turns what arrives into calls of handlers. Used by the loop's thread only.

    ``send`` sends a message under a correlation; it says whether the peer is still there.
    """

    def __init__(
        self,
        admission: Admission,
        commands: Commands,
        send: Callable[[Connection, int, Message], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.admission = admission
        self.commands = commands
        self._send = send
        self._clock = clock
        self._heard: dict[Connection, float] = {}

    def handle(self, incoming: Incoming) -> None:
        """Answer a request, now or later; every outcome but a vanished client is answered."""
        connection, correlation = incoming.connection, incoming.correlation

        def reply(message: Message) -> bool:
            return self._send(connection, correlation, message)

        try:
            user = self._known(connection)
            request = self._checked(incoming, user)
            ROUTES[type(request)].handler(self, Call(connection, user, request, reply))
        except HoldfastError as error:
            _log.warning("refused a request of %s (%s): %s", connection.key, connection.address, error)
            reply(Failure(error=error.to_record()))
        except Exception as error:  # noqa: BLE001 - boundary: a defect must not end the API for everybody
            _log.exception("a request of %s", connection.key)
            record = InternalError(kind=type(error).__name__, where="the manager's API", reason=str(error)).to_record()
            reply(Failure(error=record))

    def push(self, connection: Connection, push: Push) -> bool:
        """Tell a client something unasked."""
        return self._send(connection, 0, push)

    def tick(self) -> None:
        """Each second: let go of connections that are silent, and of whatever runs for users who changed."""
        now = self._clock()
        self.admission.refresh()
        for connection, heard in list(self._heard.items()):
            if now - heard > FORGET_AFTER_S or self.admission.known(connection.key) is None:
                del self._heard[connection]
                self.commands.hang_up(connection)
        self.commands.tick(self.admission.known)

    def _known(self, connection: Connection) -> UserEntry:
        user = self.admission.known(connection.key)
        if user is None:
            self._heard.pop(connection, None)
            self.commands.hang_up(connection)
            raise NotAuthorised(peer=connection.key, reason="no enabled user has this key")
        return user

    def _checked(self, incoming: Incoming, user: UserEntry) -> Request:
        connection = incoming.connection
        request: Request = decode_request(incoming.frame, connection.key)
        if isinstance(request, Greet):
            if request.major != API_MAJOR:
                raise VersionMismatch(theirs=request.major, ours=API_MAJOR, peer="the command line")
        elif connection not in self._heard:
            raise NotAuthorised(peer=connection.key, reason="the first message of a connection must be Greet")
        self._heard[connection] = self._clock()
        right = ROUTES[type(request)].right
        if right is not None:
            _actor(user, connection).require(right)
        return request


def _actor(user: UserEntry, connection: Connection) -> Actor:
    return Actor.of(user, f"api {connection.address}")


def _greet(api: Dispatcher, call: Call) -> None:
    roles = tuple(role.value for role in call.user.roles)
    software = holdfast_agent.__version__
    call.reply(Greeted(major=API_MAJOR, minor=API_MINOR, software=software, user=call.user.name, roles=roles))


def _heartbeat(api: Dispatcher, call: Call) -> None:
    call.reply(Done())


def _start_command(api: Dispatcher, call: Call) -> None:
    """The user is asked for anew: what was taken away a moment ago counts."""
    api.admission.refresh()
    user = api._known(call.connection)
    connection = call.connection
    number = api.commands.start(
        connection, user, _actor(user, connection), call.request, lambda push: api.push(connection, push)
    )
    call.reply(CommandStarted(command=number))


def _give_input(api: Dispatcher, call: Call) -> None:
    request: GiveInput = call.request
    running = api.commands.of(call.connection, request.command)
    if running is None:
        call.reply(Done())
    elif not running.give(request.data, request.end, lambda: _ignore(call.reply(Done()))):
        raise UsageError(reason="the input before was not taken yet")


def _interrupt(api: Dispatcher, call: Call) -> None:
    _tell(api, call, lambda running: running.interrupt())


def _resize(api: Dispatcher, call: Call) -> None:
    _tell(api, call, lambda running: running.resize(call.request.columns, call.request.lines))


def _took(api: Dispatcher, call: Call) -> None:
    _tell(api, call, lambda running: running.took(call.request.length_bytes))


def _tell(api: Dispatcher, call: Call, tell: Callable[[Running], None]) -> None:
    """A command that has ended meanwhile needs nothing any more."""
    running = api.commands.of(call.connection, call.request.command)
    if running is not None:
        tell(running)
    call.reply(Done())


def _ignore(_sent: bool) -> None:
    """A client that has gone is noticed by what is pushed to it."""


ROUTES: Final[dict[type[Request], Route]] = {
    Greet: Route(None, _greet),
    Heartbeat: Route(None, _heartbeat),
    StartCommand: Route(Right.VIEW, _start_command),
    GiveInput: Route(Right.VIEW, _give_input),
    InterruptCommand: Route(Right.VIEW, _interrupt),
    ResizeTerminal: Route(Right.VIEW, _resize),
    TookOutput: Route(Right.VIEW, _took),
}
