"""Which proxies a task wants most. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain

from .capacities import ANY_PROXY
from .placement import Rank


def ranked(
    usable: Collection[str],
    whole: bool,
    preferred: Sequence[str] = (),
    near: Sequence[Collection[str]] = (),
    failures: Mapping[str, int] | None = None,
) -> tuple[Rank, ...]:
    """Ranks of proxies, the most wanted first; in each the least loaded is taken. Every usable proxy is in one.

    ``whole``: no other proxy is enabled, and what comes to be enabled while the task waits will do, too.
    ``preferred``: as the job says, in its order. ``near``: groups of proxies to or from which data has a shorter
    way, the nearest first: those with a way of their own to the disk, the repository's own host.
    ``failures``: how often the task has failed on each: the next try goes to another, as long as there is one.
    """
    failed = Counter(failures or {})
    names = dict.fromkeys((*preferred, *chain.from_iterable(map(sorted, near)), *sorted(usable)))
    ranks: dict[tuple[int, int], list[str]] = {}
    for name in names:
        if name in usable:
            ranks.setdefault((failed[name], _wish(name, preferred, near)), []).append(name)
    ordered = [tuple(ranks[key]) for key in sorted(ranks)]
    if whole and ordered and not +failed:
        ordered[-1] = (ANY_PROXY,)
    return tuple(ordered)


def _wish(name: str, preferred: Sequence[str], near: Sequence[Collection[str]]) -> int:
    if name in preferred:
        return list(preferred).index(name)
    return len(preferred) + next((at for at, group in enumerate(near) if name in group), len(near))
