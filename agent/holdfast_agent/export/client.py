"""The second phase of one client's connection: its requests, several at a time.

What is at hand, or nearly so for a client that asks for one thing at a time, is answered at once by the thread that
receives. What must be waited for, a fetch or a flush, goes to threads of the connection's own, so that neither other
clients nor this one's further requests stand behind it.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

from holdfast_agent.disks.nbd import protocol
from holdfast_agent.disks.nbd.protocol import Command, CommandFlag, NbdProtocolError
from holdfast_agent.errors import ChannelError, HoldfastError

from .handshake import CONTEXT_ID, Chosen
from .image import Run, WritableImage
from .requests import Bytes, Inbox, Refused, Request, read_reply, refusal, simple, status_reply

IN_FLIGHT_BYTES = protocol.MAX_PAYLOAD_BYTES
"""Asked for by one client and not yet answered; beyond that nothing more is received of it."""

_THREADS = 8
_MOST_RUNS = 1 << 14
_MOST_PARTS = 512  # for one sendmsg; the kernel takes 1024
_TOLD = {errno.ENOSPC: errno.ENOSPC, errno.EDQUOT: errno.ENOSPC, errno.ENOTSUP: errno.ENOTSUP}
_log = logging.getLogger("holdfast.export")


class Client:
    """Owned by the thread that calls :meth:`serve`."""

    def __init__(self, chosen: Chosen, name: str, stopping: Callable[[], bool]) -> None:
        """``name``: for the log."""
        self.read_bytes = 0
        self._name = name
        self._stopping = stopping
        self._stream = chosen.stream
        self._image = chosen.image
        self._writes = chosen.image if isinstance(chosen.image, WritableImage) else None
        self._structured = chosen.structured
        self._allocation = chosen.allocation
        self._course = chosen.image.course()
        self._sending = threading.Lock()
        self._answered = threading.Condition()
        self._in_flight = 0
        self._helpers = threading.Semaphore(max(1, len(os.sched_getaffinity(0)) - 1))
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="client")

    def serve(self) -> None:
        """Until the client leaves, breaks the protocol or the stream ends; all its requests have ended then.

        Raises :class:`NbdProtocolError`, OSError.
        """
        inbox = Inbox(self._stream)
        try:
            while not self._stopping():
                try:
                    request = inbox.request()
                except TimeoutError:
                    continue  # a guest whose disk is idle says nothing for hours
                if request.command == Command.DISCONNECT:
                    return
                self._take(request, inbox)
        finally:
            self._pool.shutdown(wait=True)

    def _take(self, request: Request, inbox: Inbox) -> None:
        weight = request.length if request.command in (Command.READ, Command.WRITE) else 0
        if request.command == Command.WRITE and weight > protocol.MAX_PAYLOAD_BYTES:
            raise NbdProtocolError(f"{weight} bytes in one request")
        weight = min(weight, IN_FLIGHT_BYTES)
        with self._answered:
            self._answered.wait_for(lambda: self._in_flight + weight <= IN_FLIGHT_BYTES)
            self._in_flight += weight
        payload = inbox.payload(weight) if request.command == Command.WRITE else memoryview(b"")
        try:
            request.check(self._image.size_bytes, self._writes is not None)
            if request.command == Command.READ:
                self._image.read_ahead(self._course, request.offset, request.length)
                parts = self._image.at_hand(request.offset, request.length)
                if parts is not None:
                    self._send(read_reply(request, parts, self._structured))
                    self._done(weight)
                    return
                if not self._image.waits_for_read(request.offset, request.length):
                    self._share(request, weight, inbox)
                    return
            elif request.command == Command.WRITE and self._at_once(request):
                self._carry_out(request, payload, weight)
                return
        except Refused as refused:
            self._refuse(request, refused.number, str(refused))
            self._done(weight)
            return
        self._pool.submit(self._carry_out, request, payload, weight)

    def _share(self, request: Request, weight: int, inbox: Inbox) -> None:
        """A read that is work and no waiting: done here, unless more has come and a processor may be free for it."""
        nothing = memoryview(b"")
        if inbox.empty or not self._helpers.acquire(blocking=False):
            self._carry_out(request, nothing, weight)
            return
        help_out = self._pool.submit(self._carry_out, request, nothing, weight)
        help_out.add_done_callback(lambda _: self._helpers.release())

    def _at_once(self, request: Request) -> bool:
        """A write into the page cache is done sooner than a thread is woken for it."""
        durable = request.flags & CommandFlag.FUA
        return not durable and self._writes is not None and not self._writes.waits_for_write(*request[3:])

    def _carry_out(self, request: Request, payload: memoryview, weight: int) -> None:
        """Do what a request asks for, and reply. Never raises: a broken stream ends the thread that receives."""
        try:
            answer = self._answer(request, payload)
        except Refused as refused:
            self._refuse(request, refused.number, str(refused))
        except (ChannelError, CancelledError) as error:
            # No answer is better than a wrong one: a client that connects again asks again.
            _log.warning("%s: %s", self._name, error)
            self._stream.shut_down()
        except HoldfastError as error:
            _log.warning("%s: %s", self._name, error)
            self._refuse(request, errno.EIO, str(error))
        except OSError as error:
            _log.warning("%s: %s", self._name, error)
            self._refuse(request, _TOLD.get(error.errno or 0, errno.EIO), error.strerror or str(error))
        except Exception:  # noqa: BLE001 - request boundary: the client must get an answer
            _log.exception("%s: a defect in command %d", self._name, request.command)
            self._refuse(request, errno.EIO, "a defect of the server")
        else:
            self._try_to_send(answer)
        finally:
            self._done(weight)

    def _answer(self, request: Request, payload: memoryview) -> list[Bytes]:
        match request.command:
            case Command.READ:
                parts = self._image.read(request.offset, request.length)
                return read_reply(request, parts, self._structured)
            case Command.BLOCK_STATUS:
                return [status_reply(request, CONTEXT_ID, self._runs(request))]
            case Command.CACHE:
                self._image.read(request.offset, min(request.length, protocol.MAX_PAYLOAD_BYTES))
                return [simple(request)]
        self._write(request, payload)
        return [simple(request)]

    def _write(self, request: Request, payload: memoryview) -> None:
        image = self._writes
        if image is None:
            raise Refused(errno.EPERM, "this export is read-only")
        match request.command:
            case Command.WRITE:
                image.write(request.offset, payload)
            case Command.TRIM:
                image.zero(request.offset, request.length, keep_space=False, fast=False)
            case Command.WRITE_ZEROES:
                flags = CommandFlag(request.flags)
                keep_space, fast = CommandFlag.NO_HOLE in flags, CommandFlag.FAST_ZERO in flags
                image.zero(request.offset, request.length, keep_space=keep_space, fast=fast)
        if request.command == Command.FLUSH or request.flags & CommandFlag.FUA:
            image.flush()

    def _runs(self, request: Request) -> list[Run]:
        if not self._allocation:
            raise Refused(errno.EINVAL, "base:allocation was not negotiated")
        merged: list[Run] = []
        for run in self._image.runs(request.offset, request.length):
            if merged and merged[-1].state == run.state:
                merged[-1] = Run(merged[-1].length + run.length, run.state)
                continue
            if len(merged) == (1 if request.flags & CommandFlag.ONE_RUN else _MOST_RUNS):
                break  # a client asks on from where it was told
            merged.append(run)
        return merged

    def _refuse(self, request: Request, number: int, reason: str) -> None:
        self._try_to_send([refusal(request, number, reason, self._structured)])

    def _try_to_send(self, parts: Sequence[Bytes]) -> None:
        try:
            self._send(parts)
        except OSError:
            self._stream.shut_down()  # half a reply may be out: nothing more can follow it

    def _send(self, parts: Sequence[Bytes]) -> None:
        with self._sending:
            for at in range(0, len(parts), _MOST_PARTS):
                self._stream.send(parts[at : at + _MOST_PARTS])
        self.read_bytes += sum(map(len, parts))

    def _done(self, weight: int) -> None:
        with self._answered:
            self._in_flight -= weight
            self._answered.notify()
