"""One request under way, from its arrival to its one answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from holdfast_agent.channel.control_server import Connection
from holdfast_agent.errors import HoldfastError
from holdfast_agent.wire.messages import Failure, Reply, Request

R = TypeVar("R", bound=Request)

_log = logging.getLogger(__name__)


class Call(Generic[R]):
    """What a handler gets. It answers exactly once by :meth:`reply` or :meth:`fail`, at once or later, in the loop's
    thread. ``connection`` is the authenticated peer; nothing in ``request`` says who asks.
    """

    def __init__(self, connection: Connection, request: R, send: Callable[[Reply], object]) -> None:
        self.connection = connection
        self.request = request
        self._send: Callable[[Reply], object] | None = send

    @property
    def key(self) -> str:
        """Public key of the manager."""
        return self.connection.key

    @property
    def answered(self) -> bool:
        return self._send is None

    def reply(self, message: Reply) -> None:
        """Answer. The manager may be gone by now, which is no error here."""
        send, self._send = self._send, None
        if send is None:
            raise AssertionError(f"{type(self.request).__name__} was answered twice")
        try:
            send(message)
        except HoldfastError as error:  # the reply is too large for one message
            send(Failure(error=error.to_record()))

    def fail(self, error: HoldfastError) -> None:
        """Answer by an error."""
        _log.info("%s from %s: %s", type(self.request).__name__, self.key, error)
        self.reply(Failure(error=error.to_record()))

    def settle(self, outcome: Reply | HoldfastError) -> None:
        """Answer by whichever it is; made for completions of background work."""
        if isinstance(outcome, HoldfastError):
            self.fail(outcome)
        else:
            self.reply(outcome)
