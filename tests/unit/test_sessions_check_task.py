"""What a level 2 verification found counts as soon as its movers have told it, and is never taken for nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from holdfast_agent.errors import MoverDied
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.messages import VerifyBudget
from holdfast_agent.wire.specs import MoverResult
from holdfast_manager.sessions.check_task import CheckTask
from holdfast_manager.sessions.mover_pair import Outcome


class Desk:
    """As the desk of movers: an outcome is there before anybody hears of the end of its transfer."""

    def __init__(self) -> None:
        self.told: Outcome | None = None

    def outcome(self, key: Any) -> Outcome:
        if self.told is None:
            raise MoverDied(role="source", task=str(key), reason="it ended without a result")
        return self.told


def test_a_result_counts_though_the_task_is_not_released_yet() -> None:
    desk = Desk()
    recorder = SimpleNamespace(add_task=lambda *about: None)
    context: Any = SimpleNamespace(desk=desk, recorder=recorder, repository=SimpleNamespace(name="main"))
    keys: RepositoryKeys = Any  # type: ignore[assignment] - no block is opened here
    check = CheckTask(context, keys, "", VerifyBudget())
    assert check.result is None, "a level that gives it nothing finds nothing by it"
    check.add([])
    with pytest.raises(MoverDied):
        check.result  # noqa: B018 - what has not been told is an error, never a good end
    bad = MoverResult(bad_count=3)
    desk.told = Outcome(listener=MoverResult(), connector=bad, counters=TransferCounters())
    assert check.result == bad
