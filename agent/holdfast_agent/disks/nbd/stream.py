"""Bytes to and from the other side of NBD: a socket as it is, or TLS over it."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from holdfast_agent.disks.patience import Patience

_CIPHERTEXT_BYTES = 256 << 10


class Stream(Protocol):
    """One thread sends and one receives at a time; these two may be different and at it at once."""

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send all parts, one after the other. Raises OSError, TimeoutError among them."""

    def receive_into(self, view: memoryview) -> None:
        """Fill ``view``. Raises OSError, TimeoutError and ConnectionError (the end) among them."""

    def receive_some(self, view: memoryview) -> int:
        """Receive what is there, waiting for the first byte. Nothing is lost by a TimeoutError. Raises OSError."""

    def set_timeout(self, timeout_s: float) -> None:
        """For each part that is sent or received as a whole, from the next call on."""

    def shut_down(self) -> None:
        """Wake whoever sends or receives, with an error. Any thread; idempotent, never raises."""

    def close(self) -> None:
        """Release the socket, after the last use. Idempotent, never raises."""


class PlainStream:
    """Time-outs are the kernel's: then one system call fills a whole buffer, and the GIL changes hands once."""

    def __init__(self, peer: socket.socket, timeout_s: float) -> None:
        """Takes over a connected socket."""
        self._socket = peer
        self._is_tcp = peer.family in (socket.AF_INET, socket.AF_INET6)
        peer.setblocking(True)
        self.set_timeout(timeout_s)

    def set_timeout(self, timeout_s: float) -> None:
        self.timeout_s = max(timeout_s, 0.001)  # the kernel takes 0 for "none"
        fraction, seconds = math.modf(self.timeout_s)
        value = struct.pack("@ll", int(seconds), int(fraction * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        left = [memoryview(part) for part in parts if len(part)]
        patience = Patience(self.timeout_s)
        while left:
            patience.left_s()
            try:
                sent = self._socket.sendmsg(left)
            except BlockingIOError as error:
                raise TimeoutError("the other side takes nothing") from error
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = left[0][sent:]

    def receive_into(self, view: memoryview) -> None:
        done = 0
        patience = Patience(self.timeout_s)
        while done < len(view):
            patience.left_s()
            done += self._receive(view[done:], socket.MSG_WAITALL)

    def receive_some(self, view: memoryview) -> int:
        return self._receive(view, 0)

    def shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def _receive(self, view: memoryview, flags: int) -> int:
        try:
            if self._is_tcp:
                # A server that sends a reply in two parts, as QEMU does, holds the second back until the first one is
                # acknowledged; the kernel would do that after 40 ms. It forgets the option whenever something is sent.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            count = self._socket.recv_into(view, 0, flags)
        except BlockingIOError as error:
            raise TimeoutError("the other side says nothing") from error
        if count == 0:
            raise ConnectionResetError("the other side closed the connection")
        return count


class TlsStream:
    """TLS between two memory buffers: OpenSSL's state is touched by one thread at a time, but no thread that waits for
    the network keeps another from sending."""

    def __init__(self, plain: PlainStream, context: ssl.SSLContext, server: str | None) -> None:
        """The handshake. ``server``: the name to be proved by the other side; None: that is the client, and we are
        the server. Raises :class:`ssl.SSLError`, OSError."""
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server is None, server_hostname=server)
        self._state = threading.Lock()
        self._ciphertext = memoryview(bytearray(_CIPHERTEXT_BYTES))
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            else:
                self._flush()
                return

    def peer_certificate(self) -> bytes:
        """The server's certificate in DER."""
        return self._tls.getpeercert(binary_form=True) or b""

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        with self._state:
            for part in parts:
                done = 0
                while done < len(part):
                    done += self._tls.write(part[done:])
        self._flush()

    def receive_into(self, view: memoryview) -> None:
        done = 0
        patience = Patience(self._plain.timeout_s)
        while done < len(view):
            patience.left_s()
            done += self.receive_some(view[done:])

    def receive_some(self, view: memoryview) -> int:
        patience = Patience(self._plain.timeout_s)
        while True:
            try:
                with self._state:
                    count = self._tls.read(len(view), view)
            except ssl.SSLWantReadError:
                self._feed()
                patience.left_s()
                continue
            if not count:
                raise ConnectionResetError("the other side closed the connection")
            return int(count)

    def set_timeout(self, timeout_s: float) -> None:
        self._plain.set_timeout(timeout_s)

    def shut_down(self) -> None:
        self._plain.shut_down()

    def close(self) -> None:
        self._plain.close()

    def _flush(self) -> None:
        """Only by the thread that sends. An answer to a key update waits for the next request, which is in time."""
        with self._state:
            data = self._outgoing.read()
        if data:
            self._plain.send([data])

    def _feed(self) -> None:
        count = self._plain.receive_some(self._ciphertext)
        with self._state:
            self._incoming.write(self._ciphertext[:count])


@contextlib.contextmanager
def at_most(seconds: float, stream: Stream) -> Iterator[None]:
    """End the stream if the block takes longer: each answer may be in time and all of them together never end."""
    timer = threading.Timer(seconds, stream.shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
