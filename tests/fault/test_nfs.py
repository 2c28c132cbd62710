"""Repositories on a real NFS mount: the tests of ``tests/nfs``, and those of crashes, in a guest that has one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab.nfs import run_on_nfs
from lab.nfs_guest import MOUNT

TESTS = Path(__file__).parents[1]
CHOSEN = (
    "nfs/test_on_nfs.py",
    "unit/test_repository_roundtrip.py",
    "fault/test_repository_crash.py::test_every_prefix_of_a_history_leaves_whole_points[0-power-lost]",
    "fault/test_repository_crash.py::test_a_session_lives_as_long_as_any_process_that_inherited_its_lock",
)
MOST_S = 240


@pytest.mark.first
@pytest.mark.timeout(MOST_S + 20)
def test_a_repository_lives_on_nfs(disk_path_factory: pytest.TempPathFactory) -> None:
    command = [
        sys.executable, "-B", "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", f"--basetemp={MOUNT}/tests",
        f"--rootdir={TESTS.parent}", *(str(TESTS / name) for name in CHOSEN),
    ]  # fmt: skip
    status, output = run_on_nfs(disk_path_factory.mktemp("guest"), command, MOST_S)
    assert status == 0, output
    assert " passed" in output
    assert "skipped" not in output
