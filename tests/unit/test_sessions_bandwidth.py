"""The shares of a job's limit never add up to more than the limit, and nobody keeps an old share."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.model.rules import TransferRules
from holdfast_manager.sessions.bandwidth import BandwidthShare
from holdfast_manager.sessions.events import TaskKey
from holdfast_manager.sessions.movers import MoverDesk

LIMIT = 1_000_000


class Desk:
    """Remembers the rules that each task was told last."""

    def __init__(self) -> None:
        self.told: dict[TaskKey, TransferRules] = {}

    def change_rules(self, task: TaskKey, rules: TransferRules) -> None:
        self.told[task] = rules


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_shares_add_up_to_the_limit(steps: list[tuple[bool, int]]) -> None:
    desk = Desk()
    share = BandwidthShare(TransferRules(bandwidth_bytes_per_s=LIMIT), cast(MoverDesk, desk))
    running: set[TaskKey] = set()
    for joins, number in steps:
        task = TaskKey("vm", str(number))
        if joins:
            share.join(task)
            running.add(task)
        else:
            share.leave(task)
            running.discard(task)
        shares = [desk.told[each].bandwidth_bytes_per_s or 0 for each in running]
        assert sum(shares) <= LIMIT
        assert len(set(shares)) <= 1, "equal shares"
        assert not running or sum(shares) > LIMIT * 0.99, "nothing of the limit is wasted"


def test_without_a_limit_nobody_is_told_anything() -> None:
    desk = Desk()
    share = BandwidthShare(TransferRules(), cast(MoverDesk, desk))
    share.join(TaskKey("vm", "1"))
    assert desk.told == {}
    assert share.first_rules().bandwidth_bytes_per_s is None
