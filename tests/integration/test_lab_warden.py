"""What tests have started ends when they are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lab.processes import alive
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
        killed = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options],
            stdin=subprocess.DEVNULL,
            stdout=said,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TESTS), "NOTIFY_SOCKET": f"{place}/told"},
        )
        assert b"READY=1" in told.recv(1000), (tmp_path / "said").read_text()
    mark = (tmp_path / "mark").read_text()
    served = bearers(mark)
    assert len(served) >= 3, "the server of commands, a supervisor and the service"
    assert not set(served) & {os.getpid(), killed.pid}
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    # A process on its way out has no environment any more, and is one still.
    wait_until(lambda: not any(map(alive, served)) and not bearers(mark), "the end of what it started")
