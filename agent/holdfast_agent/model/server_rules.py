"""Rules in an agent's configuration that say which servers of disks it may be sent to."""

from __future__ import annotations

import contextlib
import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from .disk_url import DiskScheme, DiskUrl

_RULE = re.compile(
    r"(?P<scheme>nbds?|https?|vddk)://(?:\[(?P<six>[0-9A-Fa-f:.]+(?:/\d{1,3})?)\]|(?P<host>[0-9A-Za-z._-]+(?:/\d{1,2})?))"
    r"(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)


class ServerRule(NamedTuple):
    """A name or a network, with one scheme, on one port or on any (0)."""

    scheme: DiskScheme
    host: str
    network: IPv4Network | IPv6Network | None
    port: int

    def covers(self, url: DiskUrl) -> bool:
        """A name is compared as it is written; only an address in the URL can be in a network."""
        if url.scheme is not self.scheme or (self.port and url.port != self.port):
            return False
        if self.network is None:
            return url.host == self.host
        with contextlib.suppress(ValueError):
            return ip_address(url.host) in self.network
        return False


def parse_server_rule(text: str) -> ServerRule:
    """Parse ``SCHEME://HOST[:PORT]``; HOST is a name, an address or a network such as 10.0.0.0/24 or [fd00::/8].

    Raises ValueError.
    """
    match = _RULE.fullmatch(text)
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise ValueError(f"{text!r} is not SCHEME://HOST or SCHEME://HOST:PORT with nbds, https, vddk, nbd or http")
    host = (match["six"] or match["host"]).lower()
    network: IPv4Network | IPv6Network | None = None
    try:
        network = ip_network(host)
    except ValueError:
        if match["six"] or "/" in host:
            raise
    return ServerRule(DiskScheme(match["scheme"]), host, network, int(match["port"] or 0))
