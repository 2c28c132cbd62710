"""How long a browser may take: to ask for something, and to take the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_LOOK_S = 5.0
"""Between two looks: who has not finished a request from one to the next is cut off, and who has taken nothing of an
answer for six."""
_SLOW_LOOKS = 6


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which would wait for the rest of a request for ever."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._timer: asyncio.TimerHandle | None = None
        self._asking_since_look = False
        self._waiting_bytes, self._slow = 0, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._timer = self.loop.call_later(_LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        asking = self.cycle is None or self.cycle.response_complete
        waiting = self.transport.get_write_buffer_size()
        self._slow = self._slow + 1 if waiting and waiting == self._waiting_bytes else 0
        if (asking and self._asking_since_look) or self._slow >= _SLOW_LOOKS:
            self.transport.abort()
            return
        self._asking_since_look, self._waiting_bytes = asking, waiting
        self._timer = self.loop.call_later(_LOOK_S, self._look)
