"""How limits are split between the tasks that they cover: the pure core.

Invariants, each tested with random input:

1. The shares of the tasks that a limit covers never add up to more than the limit (but for 4).
2. Equal split: tasks that the same limits cover get the same share, and no task gets less than another one by a limit
   that both are under because of that limit.
3. Nothing is wasted: what a task leaves of a limit, because another limit holds it lower, goes to the others; so each
   task has a limit that is used up, and that limit is the one that is told to throttle it.
4. No task gets less than one byte a second, so that none ever stops for good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec


class Share(msgspec.Struct, frozen=True):
    """So much a task may send; ``by`` is the limit that asks for it. ``bytes_per_s`` None: as fast as it can."""

    bytes_per_s: int | None
    by: str = ""


UNLIMITED = Share(None)


def split(limits: Mapping[str, int], covered: Mapping[int, Collection[str]]) -> dict[int, Share]:
    """The share of each task. ``limits``: bytes per second by name. ``covered``: by which limits each task is.

    All shares grow together; when a limit is used up, its tasks keep what they have and the others grow on.
    """
    left = dict(limits)
    growing: dict[str, set[int]] = {name: set() for name in limits}
    for task, names in covered.items():
        for name in names:
            growing[name].add(task)
    shares = {task: UNLIMITED for task, names in covered.items() if not names}
    while any(growing.values()):
        level, name = min((left[name] // len(tasks), name) for name, tasks in growing.items() if tasks)
        level = max(1, level)
        for task in growing[name].copy():
            shares[task] = Share(level, name)
            for other in set(covered[task]):
                left[other] -= level
                growing[other].discard(task)
    return shares


def raised(
    share: Share, current: int, covering: Collection[str], limits: Mapping[str, int], taken: Mapping[str, int | None]
) -> int | None:
    """To what the rate of a task may be raised now, towards its share, while others still have more than theirs.

    ``current``: what it has. ``taken``: what the other tasks of each limit have together, None if one of them is not
    limited yet. Never less than ``current``; at least one byte a second.
    """
    if share.bytes_per_s is None:
        return None
    room = share.bytes_per_s
    for name in covering:
        others = taken[name]
        room = min(room, limits[name] - others if others is not None else 0)
    return max(1, current, room)
