"""Servers, agents, repositories, and rules for the traffic between them."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_network
from typing import Annotated, Any

import msgspec

from holdfast_manager.schedules.windows import check_time_zone, parse_window

from .names import Milliseconds, Name, Rate, Slots


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks of all jobs may work at once on a server, on each host of it, on each datastore. None: no limit.

    Hosts and datastores count as far as the plugin tells where VMs and disks lie. ``latency_ms``: on a datastore that
    takes longer for a read or a write no task starts; ``throttle_latency_ms``: tasks that read from one that takes
    longer are slowed down (20 and 30 ms are good values). Only where the plugin measures it. ``snapshot_spacing_s``:
    seconds between the begins of two snapshots of a session on one datastore.
    """

    tasks: Slots | None = None
    tasks_per_host: Slots | None = None
    tasks_per_datastore: Slots | None = None
    latency_ms: Milliseconds | None = None
    throttle_latency_ms: Milliseconds | None = None
    snapshot_spacing_s: Annotated[float, msgspec.Meta(gt=0, le=600)] | None = None


class ServerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A hypervisor. ``options`` belong to ``plugin``. Credentials are apart: ``servers.secret(name)``."""

    name: Name
    plugin: str
    options: dict[str, Any] = {}
    has_secret: bool = False
    limits: ServerLimits | None = None


class AgentRole(StrEnum):
    """What an agent may be used for; its own configuration has the last word."""

    PROXY = "proxy"
    REPOSITORY = "repository"


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. ``endpoint`` is "tcp://host:port"; ``public_key`` its pinned CURVE key, Z85 (40 characters).

    ``proxy_slots`` and ``repository_slots`` are the tasks that run at once on the host in each role, over all its
    repositories and all sessions (2: one per core of a small machine). ``enabled`` False: no new task starts there.
    """

    name: Name
    endpoint: str
    public_key: str
    roles: tuple[AgentRole, ...]
    proxy_slots: Slots = 2
    repository_slots: Slots = 2
    enabled: bool = True


class RepositoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A repository at ``path`` on the host of ``agent``. ``slots``: tasks at once in it. The key is apart.

    ``read_limit_bytes_per_s`` and ``write_limit_bytes_per_s``: what all tasks of all sessions together may read from
    it and write to it over the network (None: no limit). ``sealed``: it gets no new points; all else goes on.
    ``member_of``: the group that it belongs to.
    """

    name: Name
    agent: Name
    path: str
    repository_id: str
    encrypted: bool
    slots: Slots = 4
    read_limit_bytes_per_s: Rate | None = None
    write_limit_bytes_per_s: Rate | None = None
    sealed: bool = False
    member_of: Name | None = None


class PlacingPolicy(StrEnum):
    """Which member of a group gets a VM's next point: the one that has its points, or the one with most free space."""

    LOCALITY = "locality"
    CAPACITY = "capacity"


class RepositoryGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Repositories that are one target for jobs. A repository belongs to one group at most.

    ``free_floor_bytes``: a member with no more free space than this gets no points (1 GiB: its collector needs room).
    """

    name: Name
    members: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    policy: PlacingPolicy = PlacingPolicy.LOCALITY
    free_floor_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)] = msgspec.field(default=1 << 30, name="free_floor")
    description: str = ""


class TrafficRule(msgspec.Struct, frozen=True, kw_only=True):
    """A traffic rule: what tasks may do whose data goes from ``source`` to ``target``, or back unless ``one_way``.

    ``source`` and ``target`` are networks ("10.0.0.0/8") or addresses; none are all. ``bandwidth_bytes_per_s``: what
    all tasks that it covers may send together, in equal shares (None: no limit). ``streams``: connections of each new
    task, in the place of the job's (None: no say). ``windows``: when it holds ("mon-fri 08:00-18:00"), by a clock in
    ``time_zone``; none are always. Of several rules the most restrictive counts.
    """

    name: Name
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    one_way: bool = False
    bandwidth_bytes_per_s: Rate | None = msgspec.field(default=None, name="bandwidth")
    streams: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None
    windows: tuple[str, ...] = ()
    time_zone: str = "UTC"
    enabled: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        for network in (*self.source, *self.target):
            check_network(network)
        for window in self.windows:
            parse_window(window)
        check_time_zone(self.time_zone)
        if self.bandwidth_bytes_per_s is None and self.streams is None:
            raise ValueError("a traffic rule says something: give it a bandwidth, a number of streams, or both")


def check_network(text: str) -> None:
    """Raise ``ValueError`` unless ``text`` is a network such as 10.0.0.0/8, or an address."""
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; write a network such as 10.0.0.0/8, or one address") from None
