"""What a process has loaded is what is installed until a file of it is another one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from holdfast_manager.nursery.installed import Loaded


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a module that is loaded."""
    monkeypatch.syspath_prepend(tmp_path)
    place = tmp_path / "holdfast_test_of_loaded.py"
    place.write_text("# the old version\n")
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    import_module(place.stem)
    return place


def _replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    os.utime(other, ns=(0, file.stat().st_mtime_ns))  # as packages set it
    other.replace(file)


@pytest.mark.parametrize(
    "change", [_replaced, Path.unlink, lambda file: file.write_text("# the new, longer version\n")]
)
def test_a_file_that_is_another_one_or_gone_is_seen(file: Path, change: Callable[[Path], object]) -> None:
    loaded = Loaded(time.time_ns() + 10**9)
    assert loaded.is_installed()
    change(file)
    assert not loaded.is_installed()


def test_what_changed_while_it_was_loaded_is_never_trusted(file: Path) -> None:
    assert not Loaded(file.stat().st_ctime_ns).is_installed()
