"""How messages leave by the incarnation that stands: whole, or in parts where a limit slows them down."""

from __future__ import annotations

import time
from collections.abc import Callable

from .data_exchange import Exchange, Message
from .data_incarnation import Incarnation
from .data_pacing import Pacer
from .data_records import OVERHEAD_BYTES, RecordKind


class Outlet:
    """Takes messages from ``exchange`` as the limit allows. Owned by the connection's thread."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float] = time.monotonic) -> None:
        self._exchange = exchange
        self._pacer = Pacer(clock)
        self._leaving: Message | None = None

    @property
    def throttled(self) -> bool:
        """Whether a message waits for the limit alone."""
        return self._leaving is not None

    def limit(self, bytes_per_s: int | None) -> None:
        """Send no more than this from now on; None: as fast as it goes."""
        self._pacer.change(bytes_per_s)

    def delay_s(self) -> float:
        """Seconds until more may leave; 0.0 if it may now."""
        return self._pacer.delay_s()

    def push(self, life: Incarnation) -> None:
        """Send what may leave now."""
        while True:
            self._leaving = message = self._leaving or self._exchange.next()
            if message is None or self._pacer.delay_s():
                return
            whole = message.left == 0 and message.size <= self._pacer.part_bytes
            size = _send_whole(life, message) if whole else self._send_part(life, message)
            self._pacer.spent(size + OVERHEAD_BYTES)
            message.left += size
            self._leaving = message if message.left < message.size else None
            if self._leaving is None:
                self._exchange.gone(message)

    def cut_off(self) -> None:
        """The incarnation is lost: what has left in part begins anew with the next one."""
        self._leaving = None

    def _send_part(self, life: Incarnation, message: Message) -> int:
        """A piece of the whole, in which ciphertext is text like any other; at so slow a rate that costs nothing."""
        if len(message.ciphertext):
            message.plain, message.ciphertext = b"".join((message.plain, message.ciphertext)), b""
        part = message.plain[message.left : message.left + self._pacer.part_bytes]
        last = message.left + len(part) == message.size
        life.send(message.stream, RecordKind.LAST if last else RecordKind.PART, part)
        return len(part)


def _send_whole(life: Incarnation, message: Message) -> int:
    if len(message.ciphertext):
        life.send_carrier(message.stream, message.plain, message.ciphertext)
    else:
        life.send(message.stream, RecordKind.MESSAGE, message.plain)
    return message.size
