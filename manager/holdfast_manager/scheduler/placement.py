"""Who gets the free slots: the pure core of the scheduler.

Invariants, each tested with random input:

1. No resource is ever given out beyond its capacity.
2. A request gets all that it needs at once or nothing; so nobody holds one thing while waiting for another, and
   there is no deadlock.
3. First come, first served: a later request overtakes an earlier one only with resources that the earlier one does
   not wait for at that moment.
4. Nobody starves: when the first in line for something was passed over for something else that it needs, that too
   is held back for it as soon as it is free.
5. Nothing else is held back: whoever waits, waits for a resource without a free slot (but for those of 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

Need = tuple[str, ...]
"""Names of resources of which any one will do, the most wanted first."""


class Request(msgspec.Struct, frozen=True):
    """A task that waits. It gets one resource for each of its ``needs``, which must not have resources in common.

    ``awaited``: positions of the needs for which it has waited in earlier rounds, as told by :class:`Wait`.
    """

    id: int
    needs: tuple[Need, ...]
    awaited: tuple[int, ...] = ()


class Grant(msgspec.Struct, frozen=True):
    """The request may begin: one resource for each need, in the order of the needs."""

    id: int
    resources: tuple[str, ...]


class Wait(msgspec.Struct, frozen=True):
    """The request must wait. ``reason`` says for what; ``ahead``: requests before it that wait for the same."""

    id: int
    reason: str
    ahead: int
    awaited: tuple[int, ...]


class Placement(msgspec.Struct, frozen=True):
    """The decision of one round; both in the order of the requests, and each request in one of them."""

    grants: tuple[Grant, ...]
    waits: tuple[Wait, ...]


def place(capacities: Mapping[str, int], held: Iterable[str], waiting: Sequence[Request]) -> Placement:
    """Decide one round.

    ``capacities``: slots of each resource; one that is missing has none. ``held``: one name for each slot in use
    (may exceed a capacity that was lowered meanwhile). ``waiting``: in order of arrival. Time grows with the number
    of requests, not with the number of alternatives that each has. Pure: nothing is changed, nothing remembered.
    """
    round_ = _Round(capacities, held)
    grants: list[Grant] = []
    waits: list[Wait] = []
    for request in waiting:
        picks = [round_.first_free(need) for need in request.needs]
        found = tuple(pick for pick in picks if pick is not None)
        if len(found) == len(picks):
            round_.take(found)
            grants.append(Grant(request.id, found))
        else:
            waits.append(round_.enqueue(request, picks))
    return Placement(tuple(grants), tuple(waits))


class _Round:
    """What is free and who stands in line, while one round goes through the requests."""

    def __init__(self, capacities: Mapping[str, int], held: Iterable[str]) -> None:
        self._capacities = capacities
        used = Counter(held)
        self._free = {name: slots - used[name] for name, slots in capacities.items()}
        self._skip: dict[Need, int] = {}  # alternatives at the front that are used up; within a round they stay so
        self._line: Counter[frozenset[str]] = Counter()
        self._sets: dict[Need, frozenset[str]] = {}

    def first_free(self, need: Need) -> str | None:
        """The most wanted alternative that has a free slot, or None."""
        position = self._skip.get(need, 0)
        while position < len(need) and self._free.get(need[position], 0) <= 0:
            position += 1
        self._skip[need] = position
        return need[position] if position < len(need) else None

    def take(self, resources: Iterable[str]) -> None:
        """One slot of each is gone for the rest of this round."""
        for name in resources:
            self._free[name] -= 1

    def enqueue(self, request: Request, picks: Sequence[str | None]) -> Wait:
        """Put a request in line for what it lacks, and hold back for it what it must not be passed over for again."""
        lacking = [position for position, pick in enumerate(picks) if pick is None]
        needs = [request.needs[position] for position in lacking]
        ahead = max(self._ahead(need) for need in needs)
        served_one_day = all(any(self._capacities.get(name, 0) > 0 for name in need) for need in needs)
        if ahead == 0 and served_one_day:
            self.take(pick for position, pick in enumerate(picks) if pick is not None and position in request.awaited)
        for need in needs:
            self._line[self._set(need)] += 1
        awaited = tuple(sorted({*request.awaited, *lacking}))
        return Wait(request.id, _reason(needs, ahead, served_one_day), ahead, awaited)

    def _ahead(self, need: Need) -> int:
        wanted = self._set(need)
        return sum(count for other, count in self._line.items() if other is wanted or not wanted.isdisjoint(other))

    def _set(self, need: Need) -> frozenset[str]:
        found = self._sets.get(need)
        if found is None:
            found = self._sets[need] = frozenset(need)
        return found


def _reason(needs: Sequence[Need], ahead: int, served_one_day: bool) -> str:
    what = " and on ".join(_any_of(need) for need in needs)
    if not served_one_day:
        return f"no slot on {what}: disabled or removed"
    return f"waiting for a slot on {what}, {f'{ahead} ahead' if ahead else 'next in line'}"


def _any_of(need: Need) -> str:
    """ "proxy a", "proxy a or proxy b", "proxy a, proxy b or 7 others"."""
    if len(need) <= 2:
        return " or ".join(need)
    shown, more = need[:2], len(need) - 2
    return f"{', '.join(shown)} or {f'{more} others' if more > 1 else need[2]}"
