"""By which addresses, and over how many streams, a session's movers are told to connect."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..catalog import Catalog
from ..traffic.routes import Way, host_of, ordered, streams_for
from ..traffic.rules import Transfer, numeric
from .agents import AgentPool


class Ways(NamedTuple):
    """From which address to which the data of a task goes, "" where nobody knows: between its movers (of a copy whose
    movers are one process, from the other repository), and from the other repository's host to a third."""

    own: tuple[str, str]
    fed: tuple[str, str] = ("", "")


NO_WAYS: Final = Ways(("", ""))


class Routing:
    """Thread-safe; asks the catalogue each time, so that the next connection goes by what holds then."""

    def __init__(self, catalog: Catalog, pool: AgentPool) -> None:
        self._catalog = catalog
        self._pool = pool

    def choose(self, proxy: str, endpoints: tuple[str, ...], proxy_sends: bool) -> tuple[tuple[str, ...], int | None]:
        """The endpoints in the order in which ``proxy`` is to try them, and the number of streams that rules ask for.

        ``proxy_sends``: whether the data goes from the proxy to the endpoint, or back. Names are looked up here: rules
        and networks speak of addresses. Raises what connecting to the agent does.
        """
        preferred = self._catalog.traffic_rules.preferred()
        rules = [rule for rule in self._catalog.traffic_rules.list() if rule.streams is not None]
        if not rules and not (preferred and len(endpoints) > 1):
            return endpoints, None
        ours = [_address(each) for each in self._pool.addresses(proxy)]
        ways = ordered([Way(each, _address(host_of(each))) for each in endpoints], ours, preferred)
        there = ways[0].address
        pairs: Sequence[tuple[str, str]] = [(here, there) if proxy_sends else (there, here) for here in ours or [""]]
        streams = streams_for(rules, [Transfer(source=source, target=target) for source, target in pairs], time.time())
        return tuple(way.endpoint for way in ways), streams

    def likely_way(self, proxy: str, endpoint: str) -> tuple[str, str]:
        """From which address to which data will come from ``endpoint`` to ``proxy``, as far as anybody can tell before
        they are connected. Raises what connecting to the agent does."""
        here = self._pool.addresses(proxy)
        return _address(host_of(endpoint)), _address(here[0]) if here else ""


def _address(host: str) -> str:
    """``host`` as a numeric address; "" if it is a name that nobody here knows."""
    if numeric(host) is not None:
        return host
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""
