"""Which limits cover which transfers at a moment. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

from holdfast_manager.schedules.windows import parse_window, wall_time

from ..catalog.values import RepositoryEntry, TrafficRule

Address = IPv4Address | IPv6Address


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A task that transfers. ``source`` sends and ``target`` receives: numeric addresses, "" if nobody told them.

    What a copy through a third host sends on has come there from ``fed_source`` to ``fed_target`` just before, as
    fast; else both are "".

    ``reads`` and ``writes``: the repositories that it reads from and writes to, "" for none. ``job``: whose limit
    covers it, "" for none. ``own_limit``: what all tasks of its ``session`` may send together, in bytes per second.
    """

    source: str = ""
    target: str = ""
    fed_source: str = ""
    fed_target: str = ""
    reads: str = ""
    writes: str = ""
    job: str = ""
    session: int = 0
    own_limit: int | None = None


class Limits(msgspec.Struct, frozen=True):
    """``bytes_per_s`` by the name of each limit, and by which limits each transfer is covered."""

    bytes_per_s: dict[str, int]
    covered: dict[int, tuple[str, ...]]


def limits_of(
    transfers: Mapping[int, Transfer],
    rules: Sequence[TrafficRule],
    repositories: Iterable[RepositoryEntry],
    job_limits: Mapping[str, int],
    now: float,
) -> Limits:
    """All limits that hold ``now`` (Unix seconds) and whom they cover; those that cover nobody are left out."""
    found: dict[str, int] = {}
    covered: dict[int, list[str]] = {number: [] for number in transfers}
    current = [rule for rule in rules if rule.bandwidth_bytes_per_s is not None and in_force(rule, now)]
    kept = {entry.name: entry for entry in repositories}
    for number, transfer in transfers.items():
        limits = {
            f"traffic rule {rule.name}": rule.bandwidth_bytes_per_s for rule in current if matches(rule, transfer)
        }
        if transfer.reads in kept:
            limits[f"read limit of {transfer.reads}"] = kept[transfer.reads].read_limit_bytes_per_s
        if transfer.writes in kept:
            limits[f"write limit of {transfer.writes}"] = kept[transfer.writes].write_limit_bytes_per_s
        limits[f"bandwidth of job {transfer.job}"] = job_limits.get(transfer.job)
        limits[f"bandwidth of session {transfer.session}"] = transfer.own_limit
        for name, limit in limits.items():
            if limit is not None:
                found[name] = limit
                covered[number].append(name)
    return Limits(found, {number: tuple(names) for number, names in covered.items()})


def in_force(rule: TrafficRule, now: float) -> bool:
    """Whether a rule holds at this time (Unix seconds), whomever it covers."""
    if not rule.enabled:
        return False
    wall = wall_time(now, rule.time_zone)
    return not rule.windows or any(parse_window(window).covers(wall) for window in rule.windows)


def matches(rule: TrafficRule, transfer: Transfer) -> bool:
    """Whether a rule speaks of a way that a transfer takes, at whatever time."""
    if (transfer.fed_source or transfer.fed_target) and _covers(rule, transfer.fed_source, transfer.fed_target):
        return True
    return _covers(rule, transfer.source, transfer.target)


def _covers(rule: TrafficRule, sender: str, receiver: str) -> bool:
    source, target = numeric(sender), numeric(receiver)
    forward = within(source, rule.source) and within(target, rule.target)
    return forward or (not rule.one_way and within(target, rule.source) and within(source, rule.target))


def within(address: Address | None, networks: Sequence[str]) -> bool:
    """Whether an address is in one of ``networks``; no networks are all of them."""
    return not networks or (address is not None and any(address in ip_network(each) for each in networks))


def numeric(text: str) -> Address | None:
    """An address as a value, None if it is none. IPv4 inside of IPv6 is IPv4."""
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
