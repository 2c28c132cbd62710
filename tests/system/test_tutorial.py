"""The tutorial's commands, run by a shell as they stand there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from lab.ports import free_port

ROOT = Path(__file__).parents[2]
PORT = "8430"


def test_the_tutorial_ends_with_the_vm_back_and_nothing_left(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 15
    script = "\n".join(f"echo '--- block {number}'\n{block}" for number, block in enumerate(blocks))
    # Another test may listen at the agent's usual port, and so may an agent of this machine.
    script = script.replace(PORT, str(free_port()))
    (tmp_path / "tutorial.sh").write_text(f"set -eu -o pipefail\n{script}\nwait\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with subprocess.Popen(
        ["bash", str(tmp_path / "tutorial.sh")], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            told, _ = shell.communicate(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # and the agent, if the script did not get that far
    assert shell.returncode == 0, told
    assert "All is well" in told, told
    assert not (tmp_path / "holdfast-tutorial").exists()
