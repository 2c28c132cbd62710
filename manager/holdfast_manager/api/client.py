"""The command line's side of the API: one connection to a manager on another host."""

from __future__ import annotations

from collections.abc import Callable

import holdfast_agent
from holdfast_agent.channel.request_client import PeerLost, RequestClient
from holdfast_agent.errors import ConnectionLost, UsageError, VersionMismatch
from holdfast_agent.wire.messages import Push

from .contexts import Context
from .messages import API_MAJOR, API_MINOR, Greet, Greeted, decode_answer

_TIMEOUT_S = 10.0


class ApiClient(RequestClient):
    """One authenticated connection; see :class:`RequestClient`."""

    def __init__(self, context: Context, on_push: Callable[[Push | PeerLost], None]) -> None:
        """Nothing is sent yet."""
        place = context.place
        super().__init__(place.endpoint, place.server_key, context.keys, on_push, decode_answer, _TIMEOUT_S)
        self._greeted_as: Greeted | None = None

    @property
    def greeted(self) -> Greeted:
        """What the manager said at connecting: as whom it knows us."""
        if self._greeted_as is None:
            raise UsageError(reason="the client is not connected")
        return self._greeted_as

    def _greet(self, timeout_s: float) -> None:
        greet = Greet(major=API_MAJOR, minor=API_MINOR, software=holdfast_agent.__version__)
        reply = self.call(greet, timeout_s)
        if not isinstance(reply, Greeted):
            raise ConnectionLost(peer=self.endpoint, reason=f"it answered Greet by {type(reply).__name__}")
        if reply.major != API_MAJOR:
            raise VersionMismatch(peer=self.endpoint, theirs=reply.major, ours=API_MAJOR)
        self._greeted_as = reply
