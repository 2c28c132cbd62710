"""Snapshots of one datastore begin apart, and those of others do not wait for them."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast_manager.sessions.spacing import SnapshotSpacing

SPACING_S = 5
STORES = st.frozensets(st.sampled_from("abc"), min_size=1)


@given(st.lists(st.tuples(st.integers(0, 20), STORES), max_size=30))
def test_snapshots_of_one_datastore_begin_apart(wanted: list[tuple[int, frozenset[str]]]) -> None:
    now = 0.0
    spacing = SnapshotSpacing(SPACING_S, lambda: now)
    begins: defaultdict[str, list[float]] = defaultdict(list)
    for later_s, stores in wanted:
        now += later_s
        begin = now + spacing.reserve(stores)
        free = [now, *(begins[store][-1] + SPACING_S for store in stores if begins[store])]
        assert begin == max(free), "none waits for longer than it must"
        for store in stores:
            begins[store].append(begin)
    for times in begins.values():
        assert all(later - earlier >= SPACING_S for earlier, later in pairwise(times))


def test_without_spacing_or_a_datastore_nobody_waits() -> None:
    for spacing, stores in ((SnapshotSpacing(0.0), ["a"]), (SnapshotSpacing(SPACING_S), [])):
        assert [spacing.reserve(stores) for _ in range(3)] == [0.0, 0.0, 0.0]
