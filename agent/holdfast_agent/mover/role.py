"""What the four movers have in common: the objects they work with, and the one loop that drives them."""

from __future__ import annotations

from typing import Protocol

from holdfast_agent.channel.data_connection import DataConnection
from holdfast_agent.errors import (
    Cancelled,
    ChannelError,
    ConnectionLost,
    ErrorRecord,
    HoldfastError,
    MalformedMessage,
    from_record,
)
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.wire.movers import Begin, NewRules
from holdfast_agent.wire.specs import MoverResult, Order

from .control import Control
from .conversation import AnyMessage, GaveUp, decode, encode
from .stages import Tally
from .workers import Workers

_IDLE_S = 0.5


class Role(Protocol):
    """One kind of mover: a state machine fed by the loop, all in the main thread. None of its methods waits."""

    workers: Workers
    tally: Tally
    result: MoverResult | None

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


def drive(role: Role, connection: DataConnection, control: Control) -> MoverResult:
    """Run a role on its connection to the end. Raises whatever ended it; the other mover is told."""
    try:
        while role.result is None:
            _step(role, connection, control)
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


def _step(role: Role, connection: DataConnection, control: Control) -> None:
    wait_s = role.pump()
    if role.result is not None:
        return
    if control.progress_due:
        control.progress(role.tally.snapshot())
    connection.wait(min(wait_s, _IDLE_S), (*control.fds, role.workers.fd))
    for order in control.take():
        if isinstance(order, Begin):
            role.begin(order.order)
        elif isinstance(order, NewRules):
            role.change_rules(order.rules)
    role.workers.take()
    role.tally.resumed, role.tally.resent = connection.resumed, connection.resent_bytes
    # Nothing follows a result but the goodbye of the other mover, which is then no lost connection.
    while role.result is None and (incoming := connection.receive()) is not None:
        message = decode(incoming.body)
        if isinstance(message, GaveUp):
            raise _theirs(message.error)
        role.receive(message, incoming.payload, incoming.cost_bytes)
    if role.result is None:
        connection.check_alive()


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


def tell_pressure(tally: Tally, connection: DataConnection, rules: TransferRules, waits: bool) -> None:
    """Count what holds records back after a step of a role that sends them: a limit, or the network.

    ``waits``: records are ready and have not left.
    """
    throttled = connection.throttled
    tally.throttled.tell((rules.limited_by or "a limit") if throttled else None)
    tally.network.tell(waits and not throttled)


def unexpected(message: AnyMessage) -> MalformedMessage:
    """The error for a message that has no place at this moment of the conversation."""
    return MalformedMessage(peer="the other mover", reason=f"{type(message).__name__} is out of place here")


def ignore(_result: object) -> None:
    """For tasks whose end alone matters."""
