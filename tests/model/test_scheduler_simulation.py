"""A night in a large data centre: 5,000 VMs, 100 proxies, 20 repositories, and everything that fails in it.

The scheduler's own core decides; time and movers are simulated. At every moment every limit holds; at the end nothing
is lost, nothing doubled, every VM has its backup, and it took at most a tenth longer than the ideal.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from holdfast_manager.scheduler.placement import Grant, Need, Request, in_order, place

MINUTE = 60.0
ROUND_S = 60.0
WEIGHTS = (3, 1, 9)
LEASE_S = 60.0
"""The slots of a dead session lapse after that."""


@dataclass
class Task:
    """The disk of a VM. ``attempt`` counts up, so that an end of an earlier attempt is known as such."""

    number: int
    job: str
    weight: int
    needs: tuple[Need, ...]
    takes_s: float
    attempt: int = 0
    awaited: tuple[int, ...] = ()
    done: float | None = None


@dataclass
class Night:
    """The simulation. ``capacities`` change as hosts come and go."""

    chance: random.Random
    capacities: dict[str, int]
    now: float = 0.0
    waiting: dict[int, Task] = field(default_factory=dict)
    running: dict[int, tuple[Task, Grant, float]] = field(default_factory=dict)
    lapsing: dict[int, tuple[Task, Grant]] = field(default_factory=dict)
    worked_s: Counter[str] = field(default_factory=Counter)
    offered: list[int] = field(default_factory=list)
    events: list[tuple[float, int, str, object]] = field(default_factory=list)
    failures: int = 0

    def at(self, moment: float, kind: str, what: object) -> None:
        heapq.heappush(self.events, (moment, self.chance.getrandbits(60), kind, what))

    def run(self, proxies: tuple[str, ...]) -> None:
        while self.waiting or self.running or self.lapsing or any(kind == "arrive" for _, _, kind, _ in self.events):
            self.offered.append(sum(self.capacities.get(name, 0) for name in proxies))
            while self.events and self.events[0][0] <= self.now:
                _, _, kind, what = heapq.heappop(self.events)
                getattr(self, kind)(what)
            self.decide()
            self.now += ROUND_S
            for _, grant, _ in self.running.values():
                self.worked_s.update(dict.fromkeys(grant.resources, ROUND_S))
            assert self.now < 24 * 60 * MINUTE, "something waits for ever"

    def ideal_s(self, proxies: tuple[str, ...], capacities: dict[str, int]) -> float:
        """No schedule at all does the work that was done, failed attempts too, in less time."""
        work, rounds = sum(self.worked_s[name] for name in proxies), 0
        while work > 0:
            work -= self.offered[min(rounds, len(self.offered) - 1)] * ROUND_S
            rounds += 1
        others = [self.worked_s[name] / slots for name, slots in capacities.items() if name not in proxies]
        return max(rounds * ROUND_S, *others)

    def decide(self) -> None:
        held = [name for _, grant, _ in self.running.values() for name in grant.resources]
        held += [name for _, grant in self.lapsing.values() for name in grant.resources]
        jobs = Counter(task.job for task, *_ in (*self.running.values(), *self.lapsing.values()))
        requests = [
            Request(task.number, task.needs, task.awaited, task.job, task.weight) for task in self.waiting.values()
        ]
        before = Counter(held)
        placement = place(self.capacities, held, requests, jobs)
        assert len(placement.grants) + len(placement.waits) == len(requests)
        for wait in placement.waits:
            self.waiting[wait.id].awaited = wait.awaited
            assert wait.reason
        for grant in placement.grants:
            task = self.waiting.pop(grant.id)
            task.attempt += 1
            self.running[task.number] = (task, grant, self.now)
            self.at(self.now + task.takes_s, "finish", (task, task.attempt))
        used = before + Counter(name for grant in placement.grants for name in grant.resources)
        for name, count in used.items():
            assert count <= max(self.capacities.get(name, 0), before[name]), f"{name} is given out beyond its limit"

    def finish(self, what: tuple[Task, int]) -> None:
        task, attempt = what
        if task.attempt == attempt and task.number in self.running:
            del self.running[task.number]
            if self.chance.random() < 0.02:
                self.again(task)
            else:
                assert task.done is None, "it was backed up twice"
                task.done = self.now

    def again(self, task: Task) -> None:
        self.failures += 1
        task.awaited = ()
        self.waiting[task.number] = task

    def arrive(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.waiting[task.number] = task

    def lose(self, resource: str) -> None:
        """A host dies: what ran on it fails, and comes back later."""
        slots = self.capacities.pop(resource, None)
        if slots is None:
            return
        for task, grant, _ in list(self.running.values()):
            if resource in grant.resources:
                del self.running[task.number]
                self.again(task)
        self.at(self.now + self.chance.uniform(5, 60) * MINUTE, "give_back", (resource, slots))

    def give_back(self, what: tuple[str, int]) -> None:
        self.capacities[what[0]] = what[1]

    def kill(self, job: str) -> None:
        """A session dies: its slots stay taken until its lease lapses, then its tasks are requested anew."""
        for task, grant, _ in list(self.running.values()):
            if task.job == job:
                del self.running[task.number]
                self.lapsing[task.number] = (task, grant)
        self.at(self.now + LEASE_S, "lapse", job)

    def lapse(self, job: str) -> None:
        for task, _ in list(self.lapsing.values()):
            if task.job == job:
                del self.lapsing[task.number]
                self.again(task)


@pytest.mark.parametrize("vms", [1000, pytest.param(5000, marks=pytest.mark.soak)])
def test_a_night_with_failures(vms: int) -> None:
    chance = random.Random(vms)
    scale = vms / 5000
    proxies = tuple(f"proxy p{number}" for number in range(int(100 * scale)))
    repositories = [f"repository r{number}" for number in range(max(4, int(20 * scale)))]
    hosts = [f"hypervisor host h{number}" for number in range(max(10, int(60 * scale)))]
    capacities = {name: chance.choice((1, 2, 2, 3)) for name in proxies}
    capacities |= dict.fromkeys(repositories, 16) | dict.fromkeys(hosts, 6) | {"job j3 (at most 20)": 20}
    everything = dict(capacities)
    ranks = {name: (name,) for name in proxies}
    tasks = []
    for number in range(vms):
        job = f"j{number % 20}"
        needs = [(ranks[chance.choice(proxies)], proxies), in_order(chance.choice(repositories))]
        needs += [in_order(chance.choice(hosts))] + ([in_order("job j3 (at most 20)")] if job == "j3" else [])
        takes_s = chance.uniform(5, 35) * MINUTE
        tasks.append(Task(number, job, WEIGHTS[number % 20 % 3], tuple(needs), takes_s))
    late = [Task(vms + n, "late", 3, ((proxies,), in_order(repositories[n % 2])), 10 * MINUTE) for n in range(5)]

    night = Night(chance, capacities)
    night.at(0, "arrive", tasks)
    night.at(90 * MINUTE, "arrive", late)
    for _ in range(int(60 * scale)):
        night.at(chance.uniform(10, 400) * MINUTE, "lose", chance.choice((*proxies, *proxies, *repositories)))
    for _ in range(10):
        night.at(chance.uniform(10, 400) * MINUTE, "kill", f"j{chance.randrange(20)}")
    night.run(proxies)

    assert all(task.done is not None for task in (*tasks, *late)), "a VM has no backup"
    assert night.failures > vms * 0.02
    while night.events:
        _, _, kind, what = heapq.heappop(night.events)
        if kind == "give_back":
            night.give_back(what)
    assert night.capacities == everything, "a resource was lost"
    assert night.now <= 1.1 * night.ideal_s(proxies, everything), "slots were idle while tasks waited"
    assert max(task.done for task in late if task.done) <= (90 + 60) * MINUTE, "a small job waited for large ones"
