"""Which way a connection takes, asked of the kernel."""

from __future__ import annotations

import socket

from holdfast_agent.model.rules import Route


def route_to(endpoint: str, streams: int) -> Route | None:
    """The addresses of a connection to ``endpoint`` (tcp://HOST:PORT); None if the kernel knows no way any more.

    A datagram socket that is connected sends nothing, but the kernel chooses its own address as it does for TCP.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, place = places[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)
            return Route(probe.getsockname()[0], probe.getpeername()[0], streams)
    except OSError:
        return None
