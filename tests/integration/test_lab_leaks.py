"""A test that fails harms none of those that come after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab.processes import alive

TESTS = Path(__file__).parents[1]
TWO_TESTS = """
import subprocess
from pathlib import Path

def test_one():
    left = subprocess.Popen(["sleep", "600"])
    Path("pid").write_text(str(left.pid))
    raise AssertionError("it fails before it has ended what it started")

def test_two():
    pass
"""


def test_a_program_that_a_failing_test_leaves_is_told_by_that_test_and_ended(tmp_path: Path) -> None:
    (tmp_path / "test_both.py").write_text(TWO_TESTS)
    options = ("-p", "lab.leaks", "-p", "no:cacheprovider", "-W", "error", "-c", os.devnull, "--rootdir=.", "-v")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "1 failed, 1 passed, 1 error" in done.stdout, done.stdout
    assert "ERROR at teardown of test_one" in done.stdout
    assert "left behind: subprocess" in done.stdout
    assert not alive(int((tmp_path / "pid").read_text()))
