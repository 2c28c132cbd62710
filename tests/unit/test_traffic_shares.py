"""Limits are kept, split equally and used up, whatever covers what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast_manager.traffic.shares import UNLIMITED, Share, raised, split

MIB = 1 << 20


@st.composite
def _situations(draw: st.DrawFn) -> tuple[dict[str, int], dict[int, tuple[str, ...]]]:
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True))
    limits = {name: draw(st.integers(1024, 1 << 34)) for name in names}
    tasks = draw(st.integers(0, 40))
    some = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    return limits, {task: tuple(draw(some)) for task in range(tasks)}


@given(_situations())
def test_limits_are_kept_split_equally_and_used_up(
    situation: tuple[dict[str, int], dict[int, tuple[str, ...]]],
) -> None:
    limits, covered = situation
    shares = split(limits, covered)
    assert shares.keys() == covered.keys()
    total = dict.fromkeys(limits, 0)
    for task, names in covered.items():
        share = shares[task]
        if not names:
            assert share == UNLIMITED
            continue
        assert share.by in names
        assert share.bytes_per_s is not None and share.bytes_per_s >= 1
        for name in names:
            total[name] += share.bytes_per_s
    for name, limit in limits.items():
        assert total[name] <= limit
    for task, names in covered.items():
        if not names:
            continue
        mates = [shares[other] for other, others in covered.items() if shares[task].by in others]
        assert limits[shares[task].by] - total[shares[task].by] < len(mates), "something of the limit is wasted"
        mine = shares[task].bytes_per_s or 0
        assert all((mate.bytes_per_s or 0) <= mine for mate in mates), "held lower than others by its own limit"
        alike = [shares[other] for other, others in covered.items() if set(others) == set(names)]
        assert {each.bytes_per_s for each in alike} == {mine}, "unequal shares"


def test_what_one_limit_takes_another_gives() -> None:
    shares = split({"wan": 100, "store": 30}, {1: ("wan", "store"), 2: ("wan", "store"), 3: ("wan",), 4: ()})
    assert shares == {1: Share(15, "store"), 2: Share(15, "store"), 3: Share(70, "wan"), 4: UNLIMITED}


def test_more_tasks_than_bytes_still_get_on() -> None:
    shares = split({"tiny": 3}, dict.fromkeys(range(10), ("tiny",)))
    assert {share.bytes_per_s for share in shares.values()} == {1}


@given(_situations(), st.lists(st.tuples(st.integers(0, 39), st.booleans()), max_size=60))
def test_step_by_step_changes_never_exceed_a_limit(
    situation: tuple[dict[str, int], dict[int, tuple[str, ...]]], steps: list[tuple[int, bool]]
) -> None:
    """Tasks of different sessions come, go, lower and raise their rates in any order, each by itself."""
    limits, covered = situation
    rates: dict[int, int | None] = {}
    for task, acts in steps:
        if task not in covered:
            continue
        if task not in rates:
            rates[task] = 0
        elif not acts:
            del rates[task]
            continue
        running = {each: covered[each] for each in rates}
        share = split(limits, running)[task]
        current = rates[task] or 0
        if share.bytes_per_s is not None and share.bytes_per_s < current:
            rates[task] = share.bytes_per_s
        else:
            others = {
                name: sum(rates[other] or 0 for other, names in running.items() if other != task and name in names)
                for name in limits
            }
            rates[task] = raised(share, current, covered[task], limits, others)
        for name, limit in limits.items():
            together = [rates[each] or 0 for each, names in running.items() if name in names]
            assert sum(together) <= limit + len(together), "all that may exceed is a byte a second each"


def test_while_somebody_is_not_limited_yet_there_is_no_room() -> None:
    assert raised(Share(50, "wan"), 0, ("wan",), {"wan": 100}, {"wan": None}) == 1
    assert raised(Share(50, "wan"), 20, ("wan",), {"wan": 100}, {"wan": 90}) == 20
    assert raised(Share(50, "wan"), 20, ("wan",), {"wan": 100}, {"wan": 60}) == 40
    assert raised(UNLIMITED, 20, (), {}, {}) is None
