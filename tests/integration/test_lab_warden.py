"""What tests have started ends when they are killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import memory
from lab.processes import alive, program
from lab.tools import missing
from lab.waiting import wait_until
from lab.warden import bearers

PATIENCE_S = 60.0
TESTS = Path(__file__).parents[1]

A_SERVICE = """
import os
from pathlib import Path
from lab.installation import Installation

def test_that_never_ends():
    Path("mark").write_text(os.environ["TESTS_WARDEN"].split()[-1])
    house = Installation(Path("house").absolute())
    house.holdfast("init")
    house.holdfast("service", "run")
"""

A_FILE_SYSTEM = """
import os, signal
from lab.devices import small_file_system

def test_that_is_killed(tmp_path):
    with small_file_system(tmp_path) as mounted:
        print(mounted, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_stays_mounted_of_a_pytest_that_was_killed(tmp_path: Path) -> None:
    """Its file systems lie in memory. The next run takes them away, as its directories; devices go with them."""
    (tmp_path / "conftest.py").write_text("from lab.memory import tmp_path, tmp_path_factory")
    (tmp_path / "test_mount.py").write_text(A_FILE_SYSTEM)
    command = (sys.executable, "-m", "pytest", "-s", "-n", "0", "-c", os.devnull, "--rootdir=.")
    killed = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True, check=False
    )
    if killed.returncode == 0:
        missing(killed.stdout)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    (place,) = re.findall(r"^.*(/dev/shm/.+)/ext4$", killed.stdout, re.MULTILINE)
    assert os.path.ismount(f"{place}/ext4")
    memory.remove_leftovers()
    assert not Path(place).exists()
    assert place not in Path("/proc/self/mounts").read_text()
    wait_until(lambda: not any(place in behind for behind in images_behind_devices()), "the end of the device")


def images_behind_devices() -> Iterator[str]:
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # another test's, that ends now
            yield device.read_text()


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_outlives_a_pytest_that_is_killed(tmp_path: Path, workers: int) -> None:
    """A service that was forked from the server of commands, whose parents end before it."""
    (tmp_path / "test_service.py").write_text(A_SERVICE)
    options = ("-p", "lab.warden", "-n", str(workers), "-c", os.devnull, "--rootdir=.")
    with (
        tempfile.TemporaryDirectory(prefix="hf") as place,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        (tmp_path / "said").open("w") as said,
    ):
        told.bind(f"{place}/told")
        told.settimeout(PATIENCE_S)
        with program(
            [sys.executable, "-m", "pytest", *options],
            stdin=subprocess.DEVNULL,
            stdout=said,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TESTS), "NOTIFY_SOCKET": f"{place}/told"},
        ) as killed:
            assert b"READY=1" in told.recv(1000), (tmp_path / "said").read_text()
            mark = (tmp_path / "mark").read_text()
            served = bearers(mark)
            assert len(served) >= 3, "the server of commands, a supervisor and the service"
            assert not set(served) & {os.getpid(), killed.pid}
    # A process on its way out has no environment any more, and is one still.
    wait_until(lambda: not any(map(alive, served)) and not bearers(mark), "the end of what it started")
