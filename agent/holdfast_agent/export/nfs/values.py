"""Values of NFS 3 as they are said on the wire (RFC 1813, section 2.6): handles, attributes, wishes."""

from __future__ import annotations

import time

from .protocol import MOST_HANDLE_BYTES, Refusal, Status
from .share import Facts, Share, Wish
from .xdr import Reader, XdrError, boolean, opaque, uhyper, uint

_SECOND_NS = 10**9
_KEEP, _SERVERS_TIME, _CLIENTS_TIME = 0, 1, 2
_HANDLE_BYTES = 16
_LINKS = 1
NO_ATTRIBUTES = boolean(False)
NO_WCC = boolean(False) * 2
"""What a file was like before a change, and after it, where neither is told."""


def handle_of(share: Share, number: int) -> bytes:
    """The same for as long as the export exists."""
    return opaque(uhyper(share.identity) + uhyper(number))


def take_handle(reader: Reader, share: Share) -> int:
    """The number of a node. Raises :class:`Refusal` for a handle of another export, or none at all."""
    handle = bytes(reader.opaque(MOST_HANDLE_BYTES))
    if len(handle) != _HANDLE_BYTES:
        raise Refusal(Status.BADHANDLE)
    if int.from_bytes(handle[:8], "big") != share.identity:
        raise Refusal(Status.STALE)
    return int.from_bytes(handle[8:], "big")


def attributes(share: Share, facts: Facts) -> bytes:
    """fattr3."""
    node = facts.node
    head = b"".join(map(uint, (node.kind, node.mode, _LINKS, node.uid, node.gid)))
    sizes = uhyper(facts.size_bytes) + uhyper(facts.used_bytes)
    identity = uint(0) * 2 + uhyper(share.identity) + uhyper(node.number)
    return head + sizes + identity + _time(facts.atime_ns) + _time(facts.mtime_ns) + _time(facts.ctime_ns)


def attributes_after(share: Share, number: int) -> bytes:
    """post_op_attr: they are left out where they cannot be had."""
    try:
        return boolean(True) + attributes(share, share.facts(number))
    except (Refusal, OSError):
        return NO_ATTRIBUTES


def wcc(share: Share, number: int) -> bytes:
    """wcc_data. What it was like before is not told: another change may have come between."""
    return boolean(False) + attributes_after(share, number)


def take_wish(reader: Reader) -> Wish:
    """sattr3."""
    mode, uid, gid = (reader.uint() if reader.boolean() else None for _ in range(3))
    size_bytes = reader.uhyper() if reader.boolean() else None
    return Wish(mode, uid, gid, size_bytes, take_time_wish(reader), take_time_wish(reader))


def take_time_wish(reader: Reader) -> int | None:
    how = reader.uint()
    if how == _KEEP:
        return None
    if how == _SERVERS_TIME:
        return time.time_ns()
    if how != _CLIENTS_TIME:
        raise XdrError(f"{how} is no way to set a time")
    return take_time(reader)


def take_time(reader: Reader) -> int:
    seconds, nanoseconds = reader.uint(), reader.uint()
    return seconds * _SECOND_NS + min(nanoseconds, _SECOND_NS - 1)


def _time(moment_ns: int) -> bytes:
    seconds, nanoseconds = divmod(max(0, moment_ns), _SECOND_NS)
    return uint(min(seconds, 0xFFFFFFFF)) + uint(nanoseconds)
