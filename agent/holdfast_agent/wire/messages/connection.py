"""Who speaks, that somebody still does, and how the host is."""

from __future__ import annotations

import msgspec

from .base import Reply, Request


class Hello(Request, frozen=True, tag=True, kw_only=True):
    """First message of every connection; nothing else is handled before it. ``clock``: Unix time of the sender."""

    major: int
    minor: int
    software: str
    clock: float


class HelloReply(Reply, frozen=True, tag=True, kw_only=True):
    """Who answers. ``tools``: optional programs found on the host (such as "qemu-nbd").

    ``proxy_slots`` and ``repository_slots``: tasks that the host is sized for in each role, 0 without the role.
    ``addresses``: by which movers of other hosts reach movers here, the first one first (since 1.1).
    """

    major: int
    minor: int
    software: str
    clock: float
    agent: str
    roles: tuple[str, ...]
    proxy_slots: int
    repository_slots: int
    disk_schemes: tuple[str, ...]
    tools: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class Heartbeat(Request, frozen=True, tag=True, kw_only=True):
    """Sent by the manager when it has had nothing else to say for a while; answered by :class:`Done`."""


class Enrol(Request, frozen=True, tag=True, kw_only=True):
    """Admit the manager whose public key is ``key``, called ``name`` for people. Since 1.3.

    Only for a connection by a one-time token, which can ask nothing else and is used up by it.
    """

    key: str
    name: str


class AskHealth(Request, frozen=True, tag=True, kw_only=True):
    """How the host is; answered by :class:`Health`. Since 1.3."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """Room of a file system. ``purpose``: "repository" or "state". ``error``: why it could not be looked at."""

    path: str
    purpose: str
    size_bytes: int = 0
    free_bytes: int = 0
    error: str = ""


class Health(Reply, frozen=True, tag=True, kw_only=True):
    """``clock``: Unix time of the host. ``movers``: those that run, of all managers."""

    clock: float
    leases: int
    movers: int
    space: tuple[Space, ...]
