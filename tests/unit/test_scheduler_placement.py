"""The placement core: its invariants with random input, and the stories behind them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_manager.scheduler.placement import Grant, Placement, Request, place

PROXIES = ("proxy a", "proxy b", "proxy c", "proxy gone")
REPOSITORIES = ("repository r", "repository s")

needs = st.tuples(
    st.lists(st.sampled_from(PROXIES), min_size=1, unique=True).map(tuple),
    st.sampled_from(REPOSITORIES).map(lambda name: (name,)),
)
capacities = st.fixed_dictionaries(
    {name: st.integers(0, 3) for name in (*PROXIES[:3], *REPOSITORIES)},
)
waiting = st.lists(st.tuples(needs, st.sets(st.integers(0, 1))), max_size=12).map(
    lambda drawn: [Request(n, wanted, tuple(awaited)) for n, (wanted, awaited) in enumerate(drawn)]
)
held = st.lists(st.sampled_from((*PROXIES, *REPOSITORIES)), max_size=6)


@given(capacities, held, waiting)
def test_no_resource_is_given_out_beyond_its_capacity(slots, used, requests) -> None:
    before = Counter(used)
    after = before + Counter(name for grant in place(slots, used, requests).grants for name in grant.resources)
    for name in after:
        # what exceeded a limit before (it was lowered) may stay, but gets no more
        assert after[name] <= max(slots.get(name, 0), before[name])


@given(capacities, held, waiting)
def test_everybody_gets_one_of_each_need_or_waits(slots, used, requests) -> None:
    placement = place(slots, used, requests)
    assert sorted([g.id for g in placement.grants] + [w.id for w in placement.waits]) == [r.id for r in requests]
    for grant in placement.grants:
        wanted = requests[grant.id].needs
        assert len(grant.resources) == len(wanted)
        assert all(name in need for name, need in zip(grant.resources, wanted, strict=True))
    for wait in placement.waits:
        assert set(wait.awaited) > set() and set(wait.awaited) >= set(requests[wait.id].awaited)


@given(capacities, held, waiting)
def test_without_a_history_nothing_is_held_back(slots, used, requests) -> None:
    fresh = [Request(r.id, r.needs) for r in requests]
    placement = place(slots, used, fresh)
    free = _left(slots, used, placement)
    for wait in placement.waits:
        lacking = [fresh[wait.id].needs[position] for position in wait.awaited]
        assert all(free.get(name, 0) <= 0 for need in lacking for name in need)


@given(capacities, held, waiting)
def test_each_first_in_line_holds_back_at_most_one_slot_per_need(slots, used, requests) -> None:
    placement = place(slots, used, requests)
    free = _left(slots, used, placement)
    first_in_line = 0
    for wait in placement.waits:
        unused = [sum(max(0, free.get(name, 0)) for name in need) for need in requests[wait.id].needs]
        assert min(unused) <= first_in_line
        first_in_line += wait.ahead == 0


@given(capacities, held, waiting)
def test_nobody_overtakes_with_what_an_earlier_one_waits_for(slots, used, requests) -> None:
    placement = place(slots, used, requests)
    for wait in placement.waits:
        before = [g for g in placement.grants if g.id < wait.id]
        free = _left(slots, used, Placement(tuple(before), ()))
        lacked = {n for need in requests[wait.id].needs if all(free.get(x, 0) <= 0 for x in need) for n in need}
        for grant in placement.grants:
            if grant.id > wait.id:
                assert lacked.isdisjoint(grant.resources)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 2))
def test_all_are_served_in_any_traffic_and_limits_hold_throughout(
    seed: int, proxy_slots: int, repository_slots: int
) -> None:
    chance = random.Random(seed)
    slots = dict.fromkeys(PROXIES[:3], proxy_slots) | dict.fromkeys(REPOSITORIES, repository_slots)
    queue: list[Request] = []
    running: dict[int, Grant] = {}
    born: dict[int, int] = {}
    for turn in range(400):
        if turn < 200:
            number = len(born)
            proxies = tuple(chance.sample(PROXIES[:3], chance.randint(1, 3)))
            queue.append(Request(number, (proxies, (chance.choice(REPOSITORIES),))))
            born[number] = turn
        for number in [n for n in running if chance.random() < 0.5]:
            del running[number]
        queue = _round(slots, running, queue)
    assert not queue
    assert len(born) == 200


def test_nobody_starves_behind_a_stream_of_others() -> None:
    """A task needs p and r; others take p while r is busy, and r while p is busy, turn by turn, for ever."""
    slots = {"p": 1, "q": 9, "r": 1, "s": 9}
    running = {0: Grant(0, ("p", "s"))}
    queue = [Request(1, (("p",), ("r",)))]
    for turn in range(2, 40, 2):
        queue.append(Request(turn, (("q",), ("r",))))  # can run whenever r is free
        queue.append(Request(turn + 1, (("p",), ("s",))))  # can run whenever p is free
        queue = _round(slots, running, queue)
        if 1 in running:
            break
        # the one that has run longest ends, so that p and r are never free together unless one is held back
        del running[next(iter(running))]
    assert 1 in running
    assert turn < 10


def test_a_slot_is_not_held_back_for_one_that_cannot_be_served() -> None:
    requests = [Request(1, (("gone",), ("r",)), (0, 1)), Request(2, (("p",), ("r",)))]
    placement = place({"p": 1, "r": 1}, [], requests)
    assert [grant.id for grant in placement.grants] == [2]
    assert placement.waits[0].reason == "no slot on gone: disabled or removed"


def test_the_most_wanted_proxy_with_a_free_slot_is_taken() -> None:
    requests = [Request(n, (("b", "a"), ("r",))) for n in range(4)]
    placement = place({"a": 2, "b": 1, "r": 9}, [], requests)
    assert [grant.resources[0] for grant in placement.grants] == ["b", "a", "a"]
    assert [wait.id for wait in placement.waits] == [3]


def test_the_reason_says_for_what_and_how_many_are_ahead() -> None:
    proxies = ("proxy a", "proxy b")
    requests = [Request(n, (proxies, ("repository R",))) for n in range(5)]
    waits = place({"proxy a": 9, "repository R": 1}, [], requests).waits
    assert [wait.reason for wait in waits] == [
        "waiting for a slot on repository R, next in line",
        "waiting for a slot on repository R, 1 ahead",
        "waiting for a slot on repository R, 2 ahead",
        "waiting for a slot on repository R, 3 ahead",
    ]
    (wait,) = place(
        {"proxy a": 1, "proxy b": 1, "repository R": 1}, ["proxy a", "proxy b", "repository R"], requests[:1]
    ).waits
    assert wait.reason == "waiting for a slot on proxy a or proxy b and on repository R, next in line"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("x", "y", "z"), "x, y or z"),
        (("x", "y", "z", "v"), "x, y or 2 others"),
    ],
)
def test_many_alternatives_are_told_in_short(names: tuple[str, ...], text: str) -> None:
    (wait,) = place(dict.fromkeys(names, 1), names, [Request(1, (names,))]).waits
    assert wait.reason == f"waiting for a slot on {text}, next in line"


def _left(slots, used, placement: Placement) -> dict[str, int]:
    taken = Counter(used) + Counter(name for grant in placement.grants for name in grant.resources)
    return {name: limit - taken[name] for name, limit in slots.items()}


def _round(slots, running: dict[int, Grant], queue: list[Request]) -> list[Request]:
    """One round as the ledger does it; checks the limits and returns who still waits, with what it has awaited."""
    by_id = {request.id: request for request in queue}
    placement = place(slots, [name for grant in running.values() for name in grant.resources], queue)
    running.update({grant.id: grant for grant in placement.grants})
    used = Counter(name for grant in running.values() for name in grant.resources)
    assert all(used[name] <= slots[name] for name in used)
    return [Request(wait.id, by_id[wait.id].needs, wait.awaited) for wait in placement.waits]
