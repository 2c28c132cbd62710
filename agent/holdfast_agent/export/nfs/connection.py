"""One client's connection: its calls, several at a time, each answered when it is done, whatever their order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor

from holdfast_agent.disks.nbd.stream import Stream
from holdfast_agent.errors import ChannelError

from .protocol import MOST_IO_BYTES
from .rpc import Call, Parts, Program, Refused, answer, chosen, defect, parse_call, receive_record, record_of
from .xdr import Reader

_IN_FLIGHT = 8
"""Calls of one client that are being answered: 16 MiB, of what they carry and what is read for them, at the most."""

_MOST_PARTS = 512  # for one sendmsg; the kernel takes 1024
assert _IN_FLIGHT * MOST_IO_BYTES <= 16 << 20  # noqa: S101 - of two constants
_log = logging.getLogger("holdfast.export")


class Connection:
    """Owned by the thread that calls :meth:`serve`."""

    def __init__(self, stream: Stream, programs: Mapping[int, Program], stopping: Callable[[], bool]) -> None:
        self.sent_bytes = 0
        self._stream = stream
        self._programs = programs
        self._stopping = stopping
        self._sending = threading.Lock()
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="call")

    def serve(self) -> None:
        """Until the client leaves, breaks the protocol or the stream ends; all its calls have ended then.

        Raises :class:`~.rpc.RpcError`, OSError.
        """
        try:
            while not self._stopping():
                try:
                    record = receive_record(self._stream)
                except TimeoutError:
                    continue  # a host whose VM is idle says nothing for hours
                self._take(record)
        finally:
            self._pool.shutdown(wait=True)

    def _take(self, record: memoryview) -> None:
        try:
            call = parse_call(record)
            program, procedure = chosen(call, self._programs)
        except Refused as refused:
            self._send([refused.reply])
            return
        if not program.waits(call.procedure):
            self._carry_out(call, procedure)
            return
        self._room.acquire()
        self._pool.submit(self._carry_out, call, procedure).add_done_callback(lambda _: self._room.release())

    def _carry_out(self, call: Call, procedure: Callable[[Reader], Parts]) -> None:
        """Never raises: a stream that was shut down ends the thread that receives."""
        try:
            self._send(self._answer(call, procedure))
        except (ChannelError, CancelledError) as error:
            # No answer is better than a wrong one: a client that connects again asks again.
            _log.warning("a client's connection is ended: %s", error)
            self._stream.shut_down()
        except OSError:
            self._stream.shut_down()  # half a reply may be out: nothing more can follow it

    def _answer(self, call: Call, procedure: Callable[[Reader], Parts]) -> Parts:
        try:
            return answer(call, procedure)
        except (ChannelError, CancelledError):
            raise
        except Exception:  # noqa: BLE001 - request boundary: a client that got no answer would ask again for ever
            _log.exception("a defect in procedure %d of program %d", call.procedure, call.program)
            return defect(call)

    def _send(self, reply: Parts) -> None:
        parts = record_of(reply)
        with self._sending:
            for at in range(0, len(parts), _MOST_PARTS):
                self._stream.send(parts[at : at + _MOST_PARTS])
        self.sent_bytes += sum(map(len, parts))
