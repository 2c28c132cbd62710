"""What a test left to chance can be had again."""

from __future__ import annotations

import pytest

from lab.chance import told_chance


def test_the_seed_that_is_printed_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOLDFAST_SEED", raising=False)
    first = told_chance()
    name, _, seed = capsys.readouterr().out.strip().partition("=")
    monkeypatch.setenv(name, seed)
    assert told_chance().random() == first.random()
