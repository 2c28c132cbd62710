"""Counters of a transfer and the load line made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec


class StageTimes(msgspec.Struct, frozen=True):
    """Seconds in which each stage was busy; waiting in queues and for rate limiters does not count.

    A stage is busy while at least one thread works in it. ``source``: reading the disk. ``proxy``: zero test, ids,
    compression, sealing. ``network``: records wait because the line takes no more; not while the other mover has
    most of the window and is not done with it, which is that one's time. Nothing where both are one process.
    ``target``: checking and appending. For a restore ``source`` is the repository and ``target`` the disk.
    """

    source_s: float = 0.0
    proxy_s: float = 0.0
    network_s: float = 0.0
    target_s: float = 0.0
    throttled_s: float = 0.0

    def merged(self, other: StageTimes) -> StageTimes:
        """Stage by stage the sum (movers of one task each know their own stages)."""
        return StageTimes(
            self.source_s + other.source_s,
            self.proxy_s + other.proxy_s,
            self.network_s + other.network_s,
            self.target_s + other.target_s,
            self.throttled_s + other.throttled_s,
        )


class TransferCounters(msgspec.Struct, frozen=True):
    """What one task has moved so far; all in bytes of the plain disk unless said otherwise.

    processed: covered so far, holes included. read: read from the disk. zero, unchanged, deduplicated: not sent,
    by cause (unchanged by a tracker's word: with the holes among it). sent: plain bytes of the blocks that were sent.
    transferred: bytes on the wire (compressed, sealed). stored: bytes that the repository appended. throttled_by:
    seconds of ``stages.throttled_s`` by the name of the limit that held the transfer back. audited_blocks: blocks that
    change tracking called unchanged and that were read besides, only to be compared; missed_blocks: those of them that
    had changed. unused: not read, because a file system does not need it; neither zero nor unchanged (since 1.1).
    resumed: how often the connection between the movers broke and went on; resent: what that cost, bytes on the wire
    besides ``transferred`` (both since 1.1).
    """

    size_bytes: int = 0
    processed_bytes: int = 0
    read_bytes: int = 0
    zero_bytes: int = 0
    unchanged_bytes: int = 0
    deduplicated_bytes: int = 0
    sent_bytes: int = 0
    transferred_bytes: int = 0
    stored_bytes: int = 0
    elapsed_s: float = 0.0
    stages: StageTimes = StageTimes()
    throttled_by: dict[str, float] = {}
    audited_blocks: int = 0
    missed_blocks: int = 0
    unused_bytes: int = 0
    resumed: int = 0
    resent_bytes: int = 0


def joined(leader: TransferCounters, follower: TransferCounters) -> TransferCounters:
    """Of both movers of a task: the leader counts what it reads and sends, the follower what it stores; each times its
    own stages."""
    return msgspec.structs.replace(
        leader,
        stored_bytes=max(leader.stored_bytes, follower.stored_bytes),
        resumed=max(leader.resumed, follower.resumed),
        resent_bytes=leader.resent_bytes + follower.resent_bytes,
        stages=leader.stages.merged(follower.stages),
        throttled_by={**follower.throttled_by, **leader.throttled_by},
    )


def summed(counters: Sequence[TransferCounters]) -> TransferCounters:
    """Field by field the sum; ``elapsed_s`` too, so that shares of it stay shares when tasks ran side by side."""
    stages = StageTimes()
    throttled_by: Counter[str] = Counter()
    for each in counters:
        stages = stages.merged(each.stages)
        throttled_by.update(each.throttled_by)
    numbers = [name for name in TransferCounters.__struct_fields__ if name not in ("stages", "throttled_by")]
    sums: dict[str, Any] = {name: sum(getattr(each, name) for each in counters) for name in numbers}
    return TransferCounters(**sums, stages=stages, throttled_by=dict(throttled_by))


def load_line(stages: StageTimes, elapsed_s: float) -> str:
    """ "Source 99% > Proxy 17% > Network 4% > Target 1%": busy share of the transfer time per stage."""
    parts = (
        ("Source", stages.source_s),
        ("Proxy", stages.proxy_s),
        ("Network", stages.network_s),
        ("Target", stages.target_s),
    )
    shares = [f"{name} {_percent(busy, elapsed_s)}%" for name, busy in parts]
    line = " > ".join(shares)
    return f"{line} (throttled {_percent(stages.throttled_s, elapsed_s)}%)" if stages.throttled_s > 0 else line


def bottleneck(stages: StageTimes) -> str:
    """Name of the busiest stage, or "throttling" when a limiter held the transfer back longer than any stage."""
    names = {
        "source": stages.source_s,
        "proxy": stages.proxy_s,
        "network": stages.network_s,
        "target": stages.target_s,
        "throttling": stages.throttled_s,
    }
    return max(names, key=lambda name: names[name])


def _percent(busy_s: float, elapsed_s: float) -> int:
    return min(100, round(100 * busy_s / elapsed_s)) if elapsed_s > 0 else 0
