"""kill -9 of writers, collectors, readers and verifiers, again and again: every committed point stays whole.

`make soak` goes round for long.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import busy_stage
from lab.devices import FILE_SYSTEMS, small_file_system

QUICK_KILLS, LONG_KILLS = 12, 600


@pytest.fixture(params=FILE_SYSTEMS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Repository, cache and ledgers on a file system of their own."""
    with small_file_system(tmp_path, 512 << 20, request.param) as mounted:
        yield mounted


def test_kills_of_everybody_leave_every_point_whole(folder: Path) -> None:
    busy_stage.run(folder, QUICK_KILLS)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_very_many_kills_leave_every_point_whole(folder: Path) -> None:
    busy_stage.run(folder, LONG_KILLS)
