"""The placement core: its invariants with random input, and the stories behind them."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_manager.scheduler.placement import Grant, Placement, Request, in_order, line_up, place

PROXIES = ("proxy a", "proxy b", "proxy c", "proxy gone")
REPOSITORIES = ("repository r", "repository s")

ranks = st.lists(st.lists(st.sampled_from(PROXIES), min_size=1, unique=True).map(tuple), min_size=1, max_size=3)
needs = st.tuples(ranks.map(tuple), st.sampled_from(REPOSITORIES).map(in_order))
jobs = st.sampled_from(("x", "y", "z"))
capacities = st.fixed_dictionaries(
    {name: st.integers(0, 3) for name in (*PROXIES[:3], *REPOSITORIES)},
)
WEIGHTS = {"x": 1, "y": 3, "z": 9}
drawn = st.tuples(needs, st.sets(st.integers(0, 1)), jobs)
waiting = st.lists(drawn, max_size=12).map(
    lambda all_of_them: [
        Request(number, wanted, tuple(sorted(awaited)), job, WEIGHTS[job])
        for number, (wanted, awaited, job) in enumerate(all_of_them)
    ]
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
        assert all(name in names(need) for name, need in zip(grant.resources, wanted, strict=True))
    for wait in placement.waits:
        assert set(wait.awaited) > set() and set(wait.awaited) >= set(requests[wait.id].awaited)


@given(capacities, held, waiting)
def test_without_a_history_nothing_is_held_back(slots, used, requests) -> None:
    fresh = [msgspec.structs.replace(each, awaited=()) for each in requests]
    placement = place(slots, used, fresh)
    free = _left(slots, used, placement)
    for wait in placement.waits:
        lacking = [fresh[wait.id].needs[position] for position in wait.awaited]
        assert all(free.get(name, 0) <= 0 for need in lacking for name in names(need))


@given(capacities, held, waiting)
def test_each_first_in_line_holds_back_at_most_one_slot_per_need(slots, used, requests) -> None:
    placement = place(slots, used, requests)
    free = _left(slots, used, placement)
    first_in_line = 0
    for wait in placement.waits:
        unused = [sum(max(0, free.get(name, 0)) for name in names(need)) for need in requests[wait.id].needs]
        assert min(unused) <= first_in_line
        first_in_line += wait.ahead == 0


@given(capacities, held, waiting)
def test_nobody_overtakes_with_what_an_earlier_one_waits_for(slots, used, requests) -> None:
    placement = place(slots, used, requests)
    stands = {request.id: position for position, request in enumerate(line_up(requests, {}))}
    for wait in placement.waits:
        before = [g for g in placement.grants if stands[g.id] < stands[wait.id]]
        free = _left(slots, used, Placement(tuple(before), ()))
        wanted = [names(need) for need in requests[wait.id].needs]
        lacked = {name for need in wanted if all(free.get(each, 0) <= 0 for each in need) for name in need}
        for grant in placement.grants:
            if stands[grant.id] > stands[wait.id]:
                assert lacked.isdisjoint(grant.resources)


@given(waiting, st.dictionaries(jobs, st.integers(0, 5)))
def test_jobs_take_turns_by_weight(requests, running) -> None:
    order = line_up(requests, running)
    assert sorted(request.id for request in order) == [request.id for request in requests]
    has = Counter(running)
    for position, request in enumerate(order):
        share = {each.job: has[each.job] / each.weight for each in order[position:]}
        assert share[request.job] == min(share.values()), "a job with less for its weight comes later"
        has[request.job] += 1
    for job in WEIGHTS:
        ids = [request.id for request in order if request.job == job]
        assert ids == sorted(ids), "within a job the older comes first"


@given(capacities, held, waiting)
def test_the_most_wanted_and_least_loaded_is_taken(slots, used, requests) -> None:
    placement = place(slots, used, requests)
    taken = Counter(used)
    held_back = any(wait.ahead == 0 for wait in placement.waits)
    for grant in placement.grants:
        for need, got in zip(requests[grant.id].needs, grant.resources, strict=True):
            for rank in need:
                free = {name: 1 - taken[name] / slots[name] for name in rank if slots.get(name, 0) > taken[name]}
                if got in rank:
                    assert held_back or free[got] == max(free.values())
                    break
                assert held_back or not free
        taken.update(grant.resources)


@settings(max_examples=40, deadline=None)
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
            wanted = (in_order(*proxies), in_order(chance.choice(REPOSITORIES)))
            job = chance.choice("xyz")
            queue.append(Request(number, wanted, job=job, weight=WEIGHTS[job]))
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
    queue = [Request(1, (in_order("p"), in_order("r")))]
    for turn in range(2, 40, 2):
        queue.append(Request(turn, (in_order("q"), in_order("r"))))  # can run whenever r is free
        queue.append(Request(turn + 1, (in_order("p"), in_order("s"))))  # can run whenever p is free
        queue = _round(slots, running, queue)
        if 1 in running:
            break
        # the one that has run longest ends, so that p and r are never free together unless one is held back
        del running[next(iter(running))]
    assert 1 in running
    assert turn < 10


def test_a_slot_is_not_held_back_for_one_that_cannot_be_served() -> None:
    requests = [
        Request(1, (in_order("gone"), in_order("r")), (0, 1)),
        Request(2, (in_order("p"), in_order("r"))),
    ]
    placement = place({"p": 1, "r": 1}, [], requests)
    assert [grant.id for grant in placement.grants] == [2]
    assert placement.waits[0].reason == "no slot on gone: disabled or removed"


def test_the_most_wanted_proxy_with_a_free_slot_is_taken() -> None:
    requests = [Request(n, (in_order("b", "a"), in_order("r"))) for n in range(4)]
    placement = place({"a": 2, "b": 1, "r": 9}, [], requests)
    assert [grant.resources[0] for grant in placement.grants] == ["b", "a", "a"]
    assert [wait.id for wait in placement.waits] == [3]


def test_the_reason_says_for_what_and_how_many_are_ahead() -> None:
    proxies = in_order("proxy a", "proxy b")
    requests = [Request(n, (proxies, in_order("repository R"))) for n in range(5)]
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
    (wait,) = place(dict.fromkeys(names, 1), names, [Request(1, ((names[:1], names),))]).waits
    assert wait.reason == f"waiting for a slot on {text}, next in line"


def test_equally_wanted_proxies_are_loaded_evenly() -> None:
    requests = [Request(n, ((("a", "b", "c"),), in_order("r"))) for n in range(7)]
    placement = place({"a": 8, "b": 4, "c": 1, "r": 99}, [], requests)
    assert Counter(grant.resources[0] for grant in placement.grants) == {"a": 4, "b": 2, "c": 1}


def test_a_small_job_need_not_wait_for_all_of_a_large_one() -> None:
    large = [Request(n, (in_order("r"),), job="large") for n in range(100)]
    small = Request(100, (in_order("r"),), job="small")
    assert [grant.id for grant in place({"r": 3}, [], [*large, small]).grants] == [0, 100, 1]
    assert [grant.id for grant in place({"r": 3}, ["r"], [*large, small], {"large": 1}).grants] == [100, 0]


def test_weights_are_proportions_and_the_lightest_gets_something() -> None:
    weights = {"low": 1, "normal": 3, "high": 9}
    requests = [
        Request(number, (in_order("r"),), job=job, weight=weight)
        for number, (job, weight) in enumerate(weights.items(), 1)
        for _ in range(100)
    ]
    grants = place({"r": 26}, [], requests).grants
    assert Counter(grant.id for grant in grants) == {1: 2, 2: 6, 3: 18}


def names(need) -> list[str]:
    return [name for rank in need for name in rank]


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
    waits = sorted(placement.waits, key=lambda wait: wait.id)
    return [msgspec.structs.replace(by_id[wait.id], awaited=wait.awaited) for wait in waits]
