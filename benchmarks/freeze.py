"""For how long a guest stands still: the lab's guest under software emulation, with writers in both of its databases.

Run: ``.venv/bin/python benchmarks/freeze.py [--rounds 5]``. Each round freezes by the processor `qemu-ga` or `ssh`,
takes a snapshot of the disk by QEMU's monitor, and thaws. *Held* is what no write gets through: from the command that
freezes to the answer of the one that thaws. Before it databases are held and the guard is put into the guest, after it
all that is removed again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from holdfast_plugins.api import AgentChannel, FreezeHandle, VmInfo, VmRef
from holdfast_plugins.guest.agent_socket import AgentSocket
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor
from holdfast_plugins.guest.ssh import SshOptions, SshProcessor
from lab import guest as lab
from lab.guest_access import NoAccess
from lab.guest_writers import MARIADB, POSTGRESQL, database_guest, sql, start_sql_writer

VM = VmInfo(VmRef("db", "db"), ())


class TimedAccess:
    """A guest's agent; when it was told to freeze, and when it had thawed."""

    def __init__(self, path: Path) -> None:
        self._channel = AgentSocket(str(path), "db")
        self.told = self.thawed = 0.0

    def agent(self) -> AgentChannel:
        return self

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        began = time.monotonic()
        answer = self._channel.exchange(command, timeout_s)
        if b"fsfreeze-freeze" in command:
            self.told = began
        elif b"fsfreeze-thaw" in command:
            self.thawed = time.monotonic()
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("| processor | held, median | held, longest | until it is frozen | after the thaw |")
    print("|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-freeze-") as folder,
        database_guest().resume(Path(folder)) as guest,
    ):
        sql(guest, "mariadb", "CREATE DATABASE lab;")
        for client in (POSTGRESQL, MARIADB):
            sql(guest, client, "CREATE TABLE seq (i INT);")
            start_sql_writer(guest, client)
        access = TimedAccess(guest.agent.path)
        agent = QemuAgentProcessor(GuestOptions(), {})
        report("qemu-ga", [one(guest, lambda: agent.freeze(VM, access, 60), access) for _ in range(rounds)])
        known = Path(folder) / "known_hosts"
        known.write_text(f"[127.0.0.1]:{guest.ssh_port} {guest.image.host_key}\n")
        ssh = SshProcessor(
            SshOptions(
                key_file=str(guest.image.key), address="127.0.0.1", port=guest.ssh_port, known_hosts_file=str(known)
            ),
            {},
        )
        report("ssh", [one(guest, lambda: ssh.freeze(VM, NoAccess(), 60), None) for _ in range(rounds)])


def one(guest: lab.Guest, freeze: Callable[[], FreezeHandle], timed: TimedAccess | None) -> tuple[float, float, float]:
    """(held, until it is frozen, after the thaw) in seconds. Over SSH *held* is counted to the end of the clean-up."""
    began = time.monotonic()
    handle = freeze()
    frozen = time.monotonic()
    snapshot(guest)
    handle.thaw()
    done = time.monotonic()
    assert not handle.shortfall, handle.shortfall
    if timed is None:
        return done - frozen, frozen - began, 0.0
    return timed.thawed - timed.told, timed.told - began, done - timed.thawed


def snapshot(guest: lab.Guest) -> None:
    """Put an overlay over the guest's disk, as a hypervisor does that knows nothing better."""
    number = len(list(guest.folder.glob("overlay*")))
    node = f"overlay{number - 1}" if number else "disk0"
    file = guest.folder / f"overlay{number}.qcow2"
    guest.monitor.run(
        "blockdev-snapshot-sync", node_name=node, snapshot_file=str(file), snapshot_node_name=f"overlay{number}"
    )


def report(name: str, rounds: list[tuple[float, float, float]]) -> None:
    held, before, after = zip(*rounds, strict=True)
    median = statistics.median
    print(f"| {name} | {median(held):.2f} s | {max(held):.2f} s | {median(before):.1f} s | {median(after):.1f} s |")


if __name__ == "__main__":
    main()
