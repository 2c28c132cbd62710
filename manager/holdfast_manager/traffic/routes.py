"""By which of a host's addresses a mover connects, and over how many streams. Pure.

The first network of the preferred ones in which both hosts have an address comes first, then the next; the rest of
the addresses follow as the host tells them, for the case that none of the preferred ones answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import NamedTuple

from ..catalog.values import TrafficRule
from .rules import Transfer, in_force, matches, numeric


class Way(NamedTuple):
    """An endpoint (tcp://HOST:PORT) of the mover that listens, and its numeric address, "" if that is not known."""

    endpoint: str
    address: str


def ordered(ways: Sequence[Way], ours: Sequence[str], preferred: Sequence[str]) -> tuple[Way, ...]:
    """``ways`` to the listening mover, the best first; none is left out.

    ``ours``: addresses of the host that connects. ``preferred``: networks, the most wanted first.
    """
    here = [address for address in map(numeric, ours) if address is not None]
    best: list[Way] = []
    for network in map(ip_network, preferred):
        if any(address in network for address in here):
            best += [way for way in ways if (there := numeric(way.address)) is not None and there in network]
    return tuple(dict.fromkeys((*best, *ways)))


def streams_for(rules: Sequence[TrafficRule], transfers: Sequence[Transfer], now: float) -> int | None:
    """How many streams the rules in force ask for; the fewest of several. None: no rule says anything.

    ``transfers``: the ways that the connection may take, one for each address of the host that connects.
    """
    asked = [
        rule.streams
        for rule in rules
        if rule.streams is not None and in_force(rule, now) and any(matches(rule, each) for each in transfers)
    ]
    return min(asked, default=None)


def host_of(endpoint: str) -> str:
    """The address in tcp://ADDRESS:PORT."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
