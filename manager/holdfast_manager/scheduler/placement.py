"""Who gets the free slots: the pure core of the scheduler.

Invariants, each tested with random input:

1. No resource is ever given out beyond its capacity.
2. A request gets all that it needs at once or nothing; so nobody holds one thing while waiting for another, and
   there is no deadlock.
3. Whoever stands behind overtakes only with resources that those before do not wait for at that moment. In front stand
   those whose job has least for its weight; of those the older.
4. Nobody starves: a job that holds nothing stands before those that hold something, however little it weighs; and when
   the first in line for something was passed over for something else that it needs, that too is held back for it.
5. Nothing else is held back: whoever waits, waits for a resource without a free slot (but for those of 4).
6. Of several that will do, the most wanted with a free slot is taken; of equally wanted ones the least loaded.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

Rank = tuple[str, ...]
"""Names of resources that are equally wanted."""
Need = tuple[Rank, ...]
"""Resources of which any one will do, the most wanted first. A name may stand in several ranks."""


def in_order(*names: str) -> Need:
    """A need with each name less wanted than the one before it."""
    return tuple((name,) for name in names)


class Request(msgspec.Struct, frozen=True):
    """A task that waits. It gets one resource for each of its ``needs``, which must not have resources in common.

    ``awaited``: positions of the needs for which it has waited in earlier rounds, as told by :class:`Wait`. Requests of
    one ``job`` share what the job gets, which is by ``weight``: of two jobs that wait for the same, one that weighs
    three times as much gets three times as many slots.
    """

    id: int
    needs: tuple[Need, ...]
    awaited: tuple[int, ...] = ()
    job: str = ""
    weight: int = 1


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
    """The decision of one round; both in the order in which requests stand, and each request in one of them."""

    grants: tuple[Grant, ...]
    waits: tuple[Wait, ...]


def place(
    capacities: Mapping[str, int],
    held: Iterable[str],
    waiting: Sequence[Request],
    running: Mapping[str, int] | None = None,
) -> Placement:
    """Decide one round.

    ``capacities``: slots of each resource; one that is missing has none. ``held``: one name for each slot in use
    (may exceed a capacity that was lowered meanwhile). ``waiting``: in order of arrival. ``running``: how many tasks of
    each job hold slots. Time grows with the number of requests, not with that of the alternatives that each has, if
    requests that have the same share the same ranks. Pure: nothing is changed, nothing remembered.
    """
    round_ = _Round(capacities, held)
    grants: list[Grant] = []
    waits: list[Wait] = []
    for request in line_up(waiting, running or {}):
        picks = [round_.first_free(need) for need in request.needs]
        found = tuple(pick for pick in picks if pick is not None)
        if len(found) == len(picks):
            round_.take(found)
            grants.append(Grant(request.id, found))
        else:
            waits.append(round_.enqueue(request, picks))
    return Placement(tuple(grants), tuple(waits))


def line_up(waiting: Sequence[Request], running: Mapping[str, int]) -> list[Request]:
    """In which order requests stand. Each job's own keep their order; jobs take turns, who has less first."""
    turns: defaultdict[str, int] = defaultdict(int, running)
    keyed = []
    for arrival, request in enumerate(waiting):
        keyed.append((turns[request.job] / request.weight, arrival))
        turns[request.job] += 1
    keyed.sort()
    return [waiting[arrival] for _, arrival in keyed]


@dataclass(eq=False, slots=True)
class _Line:
    """All who wait for one of the same names. ``ahead``: how many wait here and in lines that ``meet`` it."""

    names: frozenset[str]
    served_one_day: bool
    count: int = 0
    ahead: int = 0
    meet: list[_Line] = field(default_factory=list)

    def add(self) -> None:
        """One more stands in line."""
        self.count += 1
        for other in self.meet:
            other.ahead += 1


class _Round:
    """What is free and who stands in line, while one round goes through the requests.

    Ranks and needs are known by identity, since to compare hundreds of names takes as long as to try them; they live as
    long as the requests, which is as long as the round.
    """

    def __init__(self, capacities: Mapping[str, int], held: Iterable[str]) -> None:
        self._capacities = capacities
        self._used = Counter(held)
        self._free = {name: slots - self._used[name] for name, slots in capacities.items()}
        self._heaps: dict[int, list[tuple[float, int, str]]] = {}
        self._lines: dict[frozenset[str], _Line] = {}
        self._by_need: dict[tuple[int, ...], tuple[_Line, str]] = {}

    def first_free(self, need: Need) -> str | None:
        """The most wanted alternative that has a free slot, or None."""
        for rank in need:
            if len(rank) == 1:
                if self._free.get(rank[0], 0) > 0:
                    return rank[0]
            elif (found := self._least_loaded(rank)) is not None:
                return found
        return None

    def take(self, resources: Iterable[str]) -> None:
        """One slot of each is gone for the rest of this round."""
        for name in resources:
            self._free[name] -= 1

    def enqueue(self, request: Request, picks: Sequence[str | None]) -> Wait:
        """Put a request in line for what it lacks, and hold back for it what it must not be passed over for again."""
        lacking = [position for position, pick in enumerate(picks) if pick is None]
        lines = [self._line(request.needs[position]) for position in lacking]
        ahead = max(line.ahead for line, _ in lines)
        served_one_day = all(line.served_one_day for line, _ in lines)
        if ahead == 0 and served_one_day:
            self.take(pick for position, pick in enumerate(picks) if pick is not None and position in request.awaited)
        for line, _ in lines:
            line.add()
        awaited = request.awaited if request.awaited == tuple(lacking) else tuple(sorted({*request.awaited, *lacking}))
        return Wait(request.id, _reason(lines, ahead, served_one_day), ahead, awaited)

    def _least_loaded(self, rank: Rank) -> str | None:
        """Within a round load only grows: an entry that is out of date is too good, and found on top."""
        heap = self._heaps.get(id(rank))
        if heap is None:
            heap = [(self._load(name), place_, name) for place_, name in enumerate(rank) if self._free.get(name, 0) > 0]
            heapq.heapify(heap)
            self._heaps[id(rank)] = heap
        while heap:
            load, place_, name = heap[0]
            if self._free[name] <= 0:
                heapq.heappop(heap)
            elif (now := self._load(name)) > load:
                heapq.heapreplace(heap, (now, place_, name))
            else:
                return name
        return None

    def _load(self, name: str) -> float:
        """The share of its slots that is in use."""
        return 1.0 - self._free[name] / self._capacities[name]

    def _line(self, need: Need) -> tuple[_Line, str]:
        """The line for a need, and what it is called."""
        key = tuple(map(id, need))
        known = self._by_need.get(key)
        if known is None:
            names = dict.fromkeys(name for rank in need for name in rank)
            wanted = frozenset(names)
            known = self._by_need[key] = self._lines.get(wanted) or self._new_line(wanted), _any_of(tuple(names))
        return known

    def _new_line(self, wanted: frozenset[str]) -> _Line:
        line = _Line(wanted, any(self._capacities.get(name, 0) > 0 for name in wanted))
        line.meet.append(line)
        for other in self._lines.values():
            if not wanted.isdisjoint(other.names):
                line.meet.append(other)
                other.meet.append(line)
                line.ahead += other.count
        self._lines[wanted] = line
        return line


def _reason(lines: Sequence[tuple[_Line, str]], ahead: int, served_one_day: bool) -> str:
    if not served_one_day:
        gone = " and on ".join(text for line, text in lines if not line.served_one_day)
        return f"no slot on {gone}: disabled or removed"
    what = " and on ".join(text for _, text in lines)
    return f"waiting for a slot on {what}, {f'{ahead} ahead' if ahead else 'next in line'}"


def _any_of(names: tuple[str, ...]) -> str:
    """ "proxy a", "proxy a or proxy b", "proxy a, proxy b or 7 others"."""
    if len(names) <= 2:
        return " or ".join(names) or "any proxy"
    shown, more = names[:2], len(names) - 2
    return f"{', '.join(shown)} or {f'{more} others' if more > 1 else names[2]}"
