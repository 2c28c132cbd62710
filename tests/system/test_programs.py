"""The demo and the benchmarks, which nobody may find broken: run small, as `make demo` and `make bench` run them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lab.contents import assert_same

ROOT = Path(__file__).resolve().parent.parent.parent


def _run(directory: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_restores_both_points_and_leaves_nothing(tmp_path: Path) -> None:
    disk, work = tmp_path / "disk.raw", tmp_path / "work"
    content = random.Random(1).randbytes(8 << 20)
    disk.write_bytes(content)
    with disk.open("r+b") as file:
        file.truncate(32 << 20)
    done = _run(tmp_path, str(ROOT / "packaging" / "demo.py"), DISK=str(disk), DEMO_WORK=str(work))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", bit for bit") == 3  # each point, and the summary
    assert not work.exists()
    assert_same(disk.read_bytes()[: len(content)], content, "the demo changed the image that it was given")


def test_the_demo_says_what_is_wrong_with_the_disk_that_it_is_given(tmp_path: Path) -> None:
    done = _run(tmp_path, str(ROOT / "packaging" / "demo.py"), DISK="no-such-image", DEMO_WORK=str(tmp_path / "work"))
    assert done.returncode == 1
    assert "no-such-image" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("mover_start.py", "--rounds", "1"), id="start"),
        pytest.param(("mover_memory.py", "--size-gib", "64", "--data-mib", "96"), id="memory"),
    ],
)
def test_benchmarks_run_and_memory_is_within_its_limits(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    script, *options = arguments
    done = _run(tmp_path, str(ROOT / "benchmarks" / script), *options)
    assert done.returncode == 0, done.stdout + done.stderr
