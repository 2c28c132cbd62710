"""The collector's protocol holds in random histories, and every one of its rules is needed."""

from __future__ import annotations

import pytest

from model.gc_model import RULES, Broken, Rules, run_history

QUICK, LONG = 2_000, 100_000
MOST = 40_000
"""Histories in which a rule that is missing must be missed; the rarest needs some 3,000."""


def test_no_history_breaks_the_protocol() -> None:
    for seed in range(QUICK):
        run_history(seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_history_of_very_many_breaks_the_protocol() -> None:
    for seed in range(LONG):
        run_history(seed)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_needed(rule: str) -> None:
    without = Rules(**{rule: False})
    for seed in range(MOST):
        try:
            run_history(seed, without)
        except Broken as broken:
            assert f"seed {seed}" in str(broken), "it can be told and repeated"
            return
    pytest.fail(f"{MOST} histories without the rule {rule!r} lost nothing: the model does not see what it is for")


def test_histories_do_what_they_are_for() -> None:
    """Commits, prunings, sweeps, deaths, fenced writers and copies are among them: else they would prove nothing."""
    story = "\n".join(line for seed in range(800) for line in run_history(seed).story)
    for event in ("commits", "pruned", "condemns", "removes", "dies", "fenced", "copied"):
        assert story.count(event) > 20, event
