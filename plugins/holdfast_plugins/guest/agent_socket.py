"""qemu-guest-agent behind a Unix socket: how QEMU gives its virtio-serial port to this host.

No plugin of its own: hypervisor plugins that know such a socket hand out its channel. Facts of the protocol:
https://www.qemu.org/docs/master/interop/qemu-ga-ref.html.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Iterator

from holdfast_agent.errors import GuestAgentSilent

SYNC_TIMEOUT_S = 10.0
"""How long the agent may take to take notice of a command: it does one thing after the other."""
MAX_ANSWER_BYTES = 8 << 20
_CHUNK_BYTES = 65536
_SENTINEL = b"\xff"


class AgentSocket:
    """An ``AgentChannel`` over ``path``. Connects for each command, for QEMU serves one client at a time."""

    def __init__(self, path: str, vm: str) -> None:
        self._path = path
        self._vm = vm

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        """See ``AgentChannel``. While another client has the socket the agent is silent."""
        try:
            with self._connected(time.monotonic() + SYNC_TIMEOUT_S) as conversation:
                conversation.send(command, time.monotonic() + timeout_s)
                return conversation.line(time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise self._silent(f"it has not answered within {timeout_s:g} s") from error
        except OSError as error:
            raise self._silent(error.strerror or str(error)) from error

    @contextlib.contextmanager
    def _connected(self, deadline: float) -> Iterator[_Conversation]:
        """A conversation on which all that an earlier client left behind has been read away."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SYNC_TIMEOUT_S)
            connection.connect(self._path)
            conversation = _Conversation(connection)
            number = secrets.randbits(53)  # JSON's numbers are exact up to there
            sync = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
            # The byte 0xff makes the agent forget half a command of an earlier client; it answers with one before the
            # number, so that the rest of an earlier answer can be told from it.
            try:
                conversation.send(_SENTINEL + json.dumps(sync).encode(), deadline)
                while not _answers(conversation.line(deadline), number):
                    pass
            except TimeoutError as error:
                raise self._silent(f"it has not taken notice within {SYNC_TIMEOUT_S:g} s") from error
            yield conversation

    def _silent(self, reason: str) -> GuestAgentSilent:
        return GuestAgentSilent(vm=self._vm, reason=f"{self._path}: {reason}")


class _Conversation:
    """Lines of JSON over a connection; deadlines are of the monotonic clock."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffered = bytearray()

    def send(self, command: bytes, deadline: float) -> None:
        self._wait_at_most(deadline)
        self._connection.sendall(command + b"\n")

    def line(self, deadline: float) -> bytes:
        """The next line, without its end. Raises ``TimeoutError``, or another ``OSError``."""
        searched = 0
        while (end := self._buffered.find(b"\n", searched)) < 0:
            searched = len(self._buffered)
            if searched > MAX_ANSWER_BYTES:
                raise OSError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            self._wait_at_most(deadline)
            data = self._connection.recv(_CHUNK_BYTES)
            if not data:
                raise OSError("the connection was closed")
            self._buffered += data
        line = bytes(self._buffered[:end])
        del self._buffered[: end + 1]
        return line

    def _wait_at_most(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)


def _answers(line: bytes, number: int) -> bool:
    """Whether ``line`` ends with the answer to guest-sync-delimited with that number."""
    _, sentinel, answer = line.rpartition(_SENTINEL)
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    return bool(sentinel) and isinstance(value, dict) and value.get("return") == number
