"""kill -9 of a process that takes a snapshot of `images`, at many moments: what it left is cleared by the next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions
from lab.contents import assert_same

CHILD = """
import json, sys
from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions, SnapshotMethod

class Journal:
    def promise(self, kind, data):
        print(json.dumps({"kind": kind, "data": data}), flush=True)
        return 1
    def strike(self, number):
        print("struck", flush=True)

driver = ImagesDriver(ImagesOptions(path=sys.argv[1], snapshot=SnapshotMethod.COPY), {})
journal = Journal()
while True:
    request = SnapshotRequest(VmRef("vm", "vm"), "test", ("a.raw", "b.raw"))
    driver.remove_snapshot(driver.create_snapshot(request, journal), True, journal)
"""
ROUNDS = 8


def test_a_killed_snapshot_is_cleared_by_the_next_process(tmp_path: Path) -> None:
    random = Random(11)
    (tmp_path / "vm").mkdir()
    for name in ("a.raw", "b.raw"):
        (tmp_path / "vm" / name).write_bytes(random.randbytes(8 << 20))
    images = {path: path.read_bytes() for path in (tmp_path / "vm").iterdir()}
    left = 0
    for _ in range(ROUNDS):
        opened = run_and_kill(tmp_path, after_lines=random.randrange(1, 8), wait_s=random.random() * 0.04)
        left += len(snapshots(tmp_path))
        driver = ImagesDriver(ImagesOptions(path=str(tmp_path)), {})
        for obligation in opened:
            driver.fulfil(obligation["kind"], obligation["data"])
        assert not snapshots(tmp_path)
    assert left, "no round was killed in mid-snapshot: the test proves nothing"
    assert_same({path: path.read_bytes() for path in (tmp_path / "vm").iterdir()}, images)


def run_and_kill(directory: Path, after_lines: int, wait_s: float) -> list[dict[str, object]]:
    """Run the child until it has written some lines and a little longer; returns the promises it had not struck off."""
    lines: list[str] = []
    command = [sys.executable, "-c", CHILD, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines += [child.stdout.readline() for _ in range(after_lines)]
        try:
            child.wait(wait_s)
        except subprocess.TimeoutExpired:
            child.kill()
        lines += child.stdout.readlines()
    opened: list[dict[str, object]] = []
    for line in filter(str.strip, lines):
        opened = [] if line.strip() == "struck" else [json.loads(line)]
    return opened


def snapshots(directory: Path) -> list[Path]:
    return list((directory / ".holdfast").glob("snapshot-*"))
