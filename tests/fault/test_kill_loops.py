"""kill -9 of each process at random moments of a backup: what was committed stays, the next run succeeds and cleans up.

The moments come from a seed that is printed; HOLDFAST_SEED repeats a run. `make soak` goes round for long.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from blake3 import blake3

from lab.agents import RunningAgent
from lab.chance import told_chance
from lab.installation import Installation, another_proxy, installed
from lab.processes import MOVER, alive, children
from lab.waiting import wait_until

MIB = 1 << 20
DISK_MIB = 48
CHANGED_MIB = 12
BANDWIDTH = 24 * MIB  # half a second of transfer, so that there is a transfer to be killed in
LATEST_KILL_S = 1.0  # after the victim has appeared; about as long as a mover lives
LONGEST_RUN_S = 90
TRIES = 10
POLL_S = 0.005


class Loop:
    """One VM, backed up again and again; remembers what each restore point must hold.

    By two jobs: the movers of "main" are a process at the proxy and one at the repository, those of "alone" are one.
    """

    def __init__(self, house: Installation, proxy: RunningAgent, chance: random.Random) -> None:
        self.house = house
        self.proxy = proxy
        self.rng = chance
        self.disk = house.vms / "vm" / "disk.raw"
        self.disk.parent.mkdir()
        self.disk.write_bytes(self.rng.randbytes(DISK_MIB * MIB))
        self.expected: dict[str, str] = {}
        house.add_repository("main", encrypted=True)
        options = ("--bandwidth", str(BANDWIDTH), "--retries", "2", "--retry-pause", "1 s")
        house.add_job("main", *options, "--proxy", proxy.name, repository="main", include="vm")
        house.add_job("alone", *options, "--proxy", "local", repository="main", include="vm")
        house.run_job("main")
        self.learn_points()

    def change_disk(self) -> None:
        with self.disk.open("r+b") as file:
            for block in self.rng.sample(range(DISK_MIB), CHANGED_MIB):
                file.seek(block * MIB)
                file.write(self.rng.randbytes(MIB))

    def learn_points(self) -> None:
        """Points that are new hold the disk as it is now: it does not change between a kill and the next run."""
        content = blake3(self.disk.read_bytes()).hexdigest()
        for point in self.house.points("vm"):
            self.expected.setdefault(point["sid"], content)

    def killed_run(self, victim: str) -> bool:
        """Back up and kill ``victim`` at a random moment of its life; returns whether it was still there."""
        run = subprocess.Popen(
            self.house.command("job", "run", "alone" if victim == "pair" else "main"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.house.environment,
        )
        try:
            pid = self._wait_for(run, VICTIMS[victim])
            if pid is None:
                return False
            time.sleep(self.rng.uniform(0, LATEST_KILL_S))  # the moment itself, not a wait for something
            hit = alive(pid) and killed(pid)
            if hit and victim == "agent":
                self.house.kill_agent()
                self.house.start_agent()  # as systemd does; the run may go on with it or not
            run.wait(LONGEST_RUN_S)
        finally:
            for left in (*children(run.pid), run.pid) if run.poll() is None else ():
                killed(left)
            run.wait()
        return hit

    def _wait_for(self, run: subprocess.Popen[bytes], find: Callable[[Loop, int], list[int]]) -> int | None:
        """The victim, once it is there; None when the run is over before."""
        while True:
            found = find(self, run.pid)
            if found:
                return found[0]
            try:
                run.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            return None

    def movers(self, agent: str) -> list[int]:
        """The mover processes of an agent."""
        process = self.house.agent if agent == "local" else self.proxy.process
        return children(process.pid, MOVER) if process is not None else []

    def check(self) -> None:
        """After the run that follows a kill: everything committed is whole, nothing is left over."""
        house = self.house
        self.learn_points()
        house.holdfast("repository", "verify", "main", "--level", "2")
        newest = house.points("vm")[0]["sid"]
        self.check_restore(newest)
        assert [path for path in (house.vms / ".holdfast").iterdir() if path.is_dir()] == [], "a frozen copy is left"
        # Agents give up a session whose manager died when its lease has lapsed.
        wait_until(lambda: not (self.movers("local") or self.movers("other")), "the end of all movers")
        for name in ("tmp", "sessions"):
            place = house.store / "main" / name
            wait_until(lambda place=place: not list(place.iterdir()), f"nothing to be left in {name}")

    def check_restore(self, sid: str) -> None:
        restored = self.house.out / f"{sid}.raw"
        self.house.restore_disk("vm", sid, restored, "--proxy", "local")
        assert blake3(restored.read_bytes()).hexdigest() == self.expected[sid], f"point {sid} restored another disk"
        restored.unlink()


def killed(pid: int) -> bool:
    """Whether it was still there for a kill -9."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _agent(loop: Loop, run: int) -> list[int]:
    """The repository's, once it has begun to work for the run."""
    return [loop.house.agent.pid] if loop.house.agent is not None and loop.movers("local") else []


VICTIMS: dict[str, Callable[[Loop, int], list[int]]] = {
    "source": lambda loop, run: loop.movers("other"),
    "target": lambda loop, run: loop.movers("local"),
    "pair": lambda loop, run: loop.movers("local"),
    "agent": _agent,
    "manager": lambda loop, run: children(run),
}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    with installed(tmp_path_factory.mktemp("kills")) as house, another_proxy(house) as proxy:
        yield Loop(house, proxy, told_chance())


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_costs_time_and_nothing_else(loop: Loop, victim: str) -> None:
    """One kill of each process: the quick version, for every change."""
    _kill_and_recover(loop, victim)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_kills_cost_time_and_nothing_else(loop: Loop) -> None:
    """All processes in turn, HOLDFAST_KILL_ROUNDS times; then every point that was ever committed is restored."""
    for number in range(int(os.environ.get("HOLDFAST_KILL_ROUNDS", "50"))):
        for victim in VICTIMS:
            print(f"round {number}: {victim}")
            _kill_and_recover(loop, victim)
    for sid in loop.expected:
        loop.check_restore(sid)


def test_every_point_that_was_ever_committed_restores(loop: Loop) -> None:
    """After all that the tests above did to it."""
    for sid in loop.expected:
        loop.check_restore(sid)


def _kill_and_recover(loop: Loop, victim: str) -> None:
    hit = False
    for _ in range(TRIES):
        loop.change_disk()
        hit = loop.killed_run(victim) or hit
        loop.learn_points()
        if hit:
            break
    assert hit, f"{victim} had always ended before it could be killed"
    loop.house.run_job("main")
    loop.check()
