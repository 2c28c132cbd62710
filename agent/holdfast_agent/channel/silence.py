"""Why somebody may have given no answer, as far as the network tells: for the eyes of whoever has to mend it."""

from __future__ import annotations

import errno
import queue
import socket
import threading

_LOOK_S = 0.5
"""Beside the ten seconds that were waited already; a resolver that takes longer is not waited for."""
_TOLD = {
    errno.ECONNREFUSED: "its host answers, but nothing listens there",
    errno.EHOSTUNREACH: "no way leads to its host",
    errno.ENETUNREACH: "no way leads to its network",
}


def why_silent(endpoint: str) -> str:
    """What is seen of "tcp://HOST:PORT" within about half a second, or "". Any thread; raises nothing."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not port.isdigit():
        return ""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    look = threading.Thread(target=lambda: answers.put(_look(host.strip("[]"), int(port))), daemon=True)
    look.start()
    try:
        return answers.get(timeout=_LOOK_S + 0.1)
    except queue.Empty:
        return ""


def _look(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), _LOOK_S):
            return "something listens there, and does not know this key or is no agent of this key"
    except socket.gaierror as error:
        return f"the name {host} leads to no address here ({error.strerror})"
    except TimeoutError:
        return "nothing comes back from its host: it is off, or a firewall drops what is sent"
    except OSError as error:
        return _TOLD.get(error.errno or 0, "")
