"""How long a mover takes from being asked for to its first block: two movers of one agent, a disk of one block.

The first block is stored, the tree built and both movers have ended when the clock stops, so this is an upper bound.
"""

from __future__ import annotations

import argparse
import queue
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import results

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid
from holdfast_agent.sealing.keys import PUBLIC, RepositoryKeys, new_repository_id
from holdfast_agent.wire.messages import (
    AbortSession,
    BeginSession,
    BeginTransfer,
    CloseLease,
    CreateRepository,
    MoverChanged,
    MoverStarted,
    Push,
    RenewLease,
    StartMover,
)
from holdfast_agent.wire.specs import BackupOrder, SourceSpec, TargetSpec
from lab.agents import start_agent

LIMIT_S = 0.5
BLOCK = 1 << 20
Pushes = queue.Queue[Push | AgentLost]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as work:
        keys, pushes = KeyPair.generate(), Pushes()
        with (
            start_agent(Path(work), authorised=[keys.public]) as agent,
            agent.client(keys, pushes.put) as client,
        ):
            disk = agent.roots["proxy"] / "disk.raw"
            disk.write_bytes(secrets.token_bytes(BLOCK))
            repository, number = agent.roots["repository"] / "main", new_repository_id()
            client.call(CreateRepository(repository=str(repository), repository_id=number, slots=()))
            times = [_one_round(client, pushes, disk, repository, number) for _ in range(rounds)]
    connected, first_block = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"source mover, asked for → connected with its target     {connected:.3f} s  (median of {rounds})")
    print(f"source mover, asked for → first block stored            {first_block:.3f} s  (limit {LIMIT_S} s)")
    results.write("mover_start", {"connected_s": connected, "first_block_s": first_block, "limit_s": LIMIT_S})
    return 0


def _one_round(client: ControlClient, pushes: Pushes, disk: Path, repository: Path, number: str) -> tuple[float, float]:
    """Seconds until connected, and until the one block is stored; waiting between the two is left out."""
    lease, sid, secret = secrets.token_hex(8), Sid(secrets.token_hex(16)), secrets.token_bytes(32)
    client.call(RenewLease(lease=lease, ttl_s=60))
    client.call(BeginSession(lease=lease, repository=str(repository), sid=sid))
    target = TargetSpec(task_id="t", secret=secret, repository=str(repository), sid=sid, mover=1)
    listening = client.call(StartMover(lease=lease, mover="target", spec=target))
    assert isinstance(listening, MoverStarted)
    keys = RepositoryKeys.derive(PUBLIC, number).data_keys()
    began = time.monotonic()
    source = SourceSpec(task_id="t", secret=secret, endpoints=listening.endpoints, keys=keys)
    client.call(StartMover(lease=lease, mover="source", spec=source))
    _wait(pushes, lease, "source", "connected")
    connected = time.monotonic() - began
    order = BackupOrder(geometry=Geometry(BLOCK), disks=(f"file:{disk}",), mode=ChangeMode.FULL)
    client.call(BeginTransfer(lease=lease, mover="source", order=order))
    _wait(pushes, lease, "source", "done")
    first_block = time.monotonic() - began
    client.call(AbortSession(lease=lease, repository=str(repository), sid=sid))
    client.call(CloseLease(lease=lease))
    return connected, first_block


def _wait(pushes: Pushes, lease: str, mover: str, phase: str) -> None:
    while True:
        push = pushes.get(timeout=30)
        assert isinstance(push, MoverChanged), push
        if (push.lease, push.state.mover) == (lease, mover):
            assert push.state.phase != "failed", push.state.error
            if push.state.phase == phase:
                return


if __name__ == "__main__":
    sys.exit(main())
