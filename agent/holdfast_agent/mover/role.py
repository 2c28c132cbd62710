"""What all movers have in common: the objects they work with, and the one loop that drives them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from holdfast_agent.channel.data_connection import DataConnection
from holdfast_agent.errors import (
    Cancelled,
    ChannelError,
    ConnectionLost,
    ErrorRecord,
    HoldfastError,
    MalformedMessage,
    TreesDiffer,
    from_record,
)
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.model.stats import TransferCounters, joined
from holdfast_agent.wire.movers import Begin, NewRules
from holdfast_agent.wire.specs import MoverResult, Order

from .control import Control
from .conversation import AnyMessage, GaveUp, decode, encode
from .line import Line, LocalLine, Peer
from .stages import Tally
from .workers import Workers

_IDLE_S = 0.5


class Role(Protocol):
    """One kind of mover: a state machine fed by the loop, all in the main thread. None of its methods waits."""

    workers: Workers
    tally: Tally
    result: MoverResult | None

    @property
    def origin(self) -> str:
        """The endpoint of a third mover whose points it reads, once that is connected; "" for all others."""

    def begin(self, order: Order) -> None:
        """The order has come; only for movers that lead."""

    def change_rules(self, rules: TransferRules) -> None:
        """New transfer rules hold from now on."""

    def receive(self, message: AnyMessage, payload: memoryview, cost_bytes: int) -> None:
        """A message of the other mover. ``cost_bytes`` must be released once the message is consumed."""

    def pump(self) -> float:
        """Do all that can be done now; the seconds after which to be called even if nothing happens."""

    def close(self, error: BaseException | None, timeout_s: float) -> bool:
        """Stop the workers and release everything; ``error`` is what ended the transfer, if anything did.

        False if a worker hangs; what it uses is then left to the end of the process.
        """


class Seat(NamedTuple):
    """A role and its end of the line to the other mover."""

    role: Role
    line: Line


def drive(role: Role, connection: DataConnection, control: Control, resumed: Callable[[], None]) -> MoverResult:
    """Run a role on its connection to the end. Raises whatever ended it; the other mover is told.

    ``resumed`` is called when the connection has broken and goes on, perhaps by another way.
    """
    seats = (Seat(role, connection),)
    known = connection.resumed
    try:
        while role.result is None:
            _step(seats, control)
            if connection.resumed != known:
                known = connection.resumed
                resumed()
        _part(role, connection, control)
    except ChannelError:
        connection.abort()
        raise
    except HoldfastError as error:
        _tell(connection, error)
        raise
    except BaseException:
        connection.abort()
        raise
    return role.result


def drive_pair(
    leader: Role, follower: Role, ends: tuple[LocalLine, LocalLine], control: Control, stepped: Callable[[], None]
) -> MoverResult:
    """Run both roles of a task, whose line these are the ends of, to the end of both. Raises whatever ended either.

    The result is both's together. Raises :class:`TreesDiffer` if they do not agree on the disk. ``stepped`` is called
    again and again meanwhile.
    """
    seats = (Seat(leader, ends[0]), Seat(follower, ends[1]))
    while leader.result is None or follower.result is None:
        _step(seats, control)
        stepped()
    mine, theirs = leader.result, follower.result
    if None not in (mine.root, theirs.root) and mine.root != theirs.root:
        raise TreesDiffer(disk=mine.used_disk)
    return msgspec.structs.replace(mine, root=theirs.root or mine.root, packs=theirs.packs)


def counted(roles: Sequence[Role]) -> TransferCounters:
    """What the roles of this process have done together, the leader first."""
    return functools.reduce(joined, [role.tally.snapshot() for role in roles] or [TransferCounters()])


def _step(seats: Sequence[Seat], control: Control) -> None:
    """One round of all roles that have no result yet."""
    wait_s = min(seat.role.pump() for seat in seats if seat.role.result is None)
    if all(seat.role.result is not None for seat in seats):
        return
    if control.progress_due:
        control.progress(counted([seat.role for seat in seats]))
    # The first line waits for both: a pair's ends are of one line.
    seats[0].line.wait(min(wait_s, _IDLE_S), (*control.fds, *(seat.role.workers.fd for seat in seats)))
    for order in control.take():
        if isinstance(order, Begin):
            seats[0].role.begin(order.order)
        elif isinstance(order, NewRules):
            for seat in seats:
                seat.role.change_rules(order.rules)
    for seat in seats:
        _listen(seat.role, seat.line)


def _listen(role: Role, line: Line) -> None:
    """Hand over what the role's workers and the other mover have to say."""
    role.workers.take()
    role.tally.resumed, role.tally.resent = line.resumed, line.resent_bytes
    # Nothing follows a result but the goodbye of the other mover, which is then no lost connection.
    while role.result is None and (incoming := line.receive()) is not None:
        message = decode(incoming.body)
        if isinstance(message, GaveUp):
            raise _theirs(message.error)
        role.receive(message, incoming.payload, incoming.cost_bytes)
    if role.result is None:
        line.check_alive()


def _part(role: Role, connection: DataConnection, control: Control) -> None:
    """All is done; what was said last must still arrive, on a line that breaks now too. A stop changes nothing of the
    result any more, but ends the waiting."""
    try:
        while not connection.part(_IDLE_S, control.fds):
            control.check()
            if control.progress_due:
                control.progress(role.tally.snapshot())
    except (Cancelled, ChannelError):
        connection.abort()


def _theirs(record: ErrorRecord) -> HoldfastError:
    """Why the other mover ended, as our error. That it was stopped, or its agent died, is for us a lost connection: the
    task may go on elsewhere; if it was the manager's will, we are told so too."""
    if record.code == Cancelled.code:
        return ConnectionLost(peer="the other mover", reason=record.message)
    return from_record(record)


def _tell(connection: DataConnection, error: HoldfastError) -> None:
    """Tell the other mover why we end; it is no loss if that fails."""
    try:
        connection.send(encode(GaveUp(error.to_record())), urgent=True)
        connection.close()
    except HoldfastError:
        connection.abort()


def tell_pressure(tally: Tally, connection: Peer, rules: TransferRules, waits: bool, ended: bool = False) -> None:
    """Count what holds records back after a step of a role that sends them: a limit, or the network. What waits for
    the other mover is neither's time, but that of the stage which is busy there.

    ``waits``: records are ready and have not left. ``ended``: all has been said, so that what is under way still is all
    that there is to wait for; on a thin line that is most of a small transfer.
    """
    throttled = connection.throttled
    tally.throttled.tell((rules.limited_by or "a limit") if throttled else None)
    tally.network.tell((waits and connection.congested) or (ended and connection.under_way and not throttled))


def unexpected(message: AnyMessage) -> MalformedMessage:
    """The error for a message that has no place at this moment of the conversation."""
    return MalformedMessage(peer="the other mover", reason=f"{type(message).__name__} is out of place here")


def ignore(_result: object) -> None:
    """For tasks whose end alone matters."""
