"""What the service tells systemd: that it is ready, that it is well, that it stops (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket


class Supervisor:
    """systemd, if it started us and asks by NOTIFY_SOCKET; else nobody. Whatever goes wrong there is not ours to mend.

    Takes the variables out of the environment, so that sessions do not speak for the service.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)

    def tell(self, *states: str) -> None:
        """ "READY=1", "WATCHDOG=1", "STATUS=…", "STOPPING=1"."""
        if not self._address.startswith(("/", "@")):
            return
        place = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer,
        ):
            peer.connect(place)
            peer.sendall("\n".join(states).encode())
