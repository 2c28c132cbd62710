"""`holdfast` within the test's own process: what a command prints, and its exit code."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast_manager.cli.main import run
from holdfast_manager.settings import ManagerSettings


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Holdfast = Callable[..., Done]


@pytest.fixture
def holdfast(
    tmp_path: Path,
    manager_settings: ManagerSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Holdfast:
    """Runs `holdfast` in this process with the test's data directory; ``stdin`` is what is piped in."""
    monkeypatch.setenv("HOLDFAST_HOME", manager_settings.data_dir)
    empty = tmp_path / "manager.toml"
    empty.touch()
    monkeypatch.setenv("HOLDFAST_CONFIG", str(empty))

    def call(*arguments: str | Path, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Done(code, told.out, told.err)

    return call
