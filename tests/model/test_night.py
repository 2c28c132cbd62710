"""A night's window with the real service, catalogue, ledger and sessions, and simulated movers."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime

import pytest

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import (
    AgentEntry,
    AgentRole,
    JobSpec,
    Priority,
    RepositoryEntry,
    ServerEntry,
    ServerLimits,
)
from holdfast_manager.schedules.schedule import JobSchedule
from holdfast_manager.settings import ManagerSettings
from lab.night import Clocks, Night, Vm

MINUTE, HOUR = 60.0, 3600.0
EVENING = datetime(2027, 1, 15, 21, 59, 30, tzinfo=UTC).timestamp()


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("vms", "proxies", "repositories", "jobs"),
    [(120, 6, 3, 6), pytest.param(5000, 100, 20, 20, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])],
)
def test_a_night_with_real_sessions(
    manager_settings: ManagerSettings, vms: int, proxies: int, repositories: int, jobs: int
) -> None:
    seed = int(os.environ.get("HOLDFAST_NIGHT_SEED", vms))
    chance = random.Random(seed)
    clocks = Clocks(EVENING)
    with Catalog.create(manager_settings, clocks) as catalog:
        night = Night(catalog, clocks, chance, estate(catalog, chance, vms, proxies, repositories, jobs), round_s=20.0)
        for _ in range(max(4, proxies // 2)):
            agent = f"p{chance.randrange(proxies)}"
            night.at(
                chance.uniform(5, 90) * MINUTE, lambda agent=agent: night.lose(agent, chance.uniform(5, 20) * MINUTE)
            )
        night.at(20 * MINUTE, lambda: night.lose("store0", 10 * MINUTE))
        for minute in (25, 40, 55):
            night.at(minute * MINUTE, night.kill)
        for minute, leap_s in ((15, HOUR), (30, -HOUR), (45, 3 * MINUTE), (50, -90.0)):
            night.at(minute * MINUTE, lambda leap_s=leap_s: night.leap(leap_s))

        def done() -> bool:
            return clocks.elapsed_s > 2 * HOUR and not night.sessions and not night.timers and settled(catalog)

        night.run(done, limit_s=24 * HOUR)
        assert night.lapses == 0, "a leap of the clock took slots from the living"
        assert night.killed == 3
        assert night.failures > 0
        for job, of_job in night.vms.items():
            for vm in of_job:
                assert night.points[vm.name] or has_reason(catalog, job), f"{vm.name} has no backup and nobody says why"
        assert sum(not night.points[vm.name] for of_job in night.vms.values() for vm in of_job) <= vms // 100
        # a few tasks are left at the end: those of sessions that were killed, and of VMs that failed
        slack_s = (30 if vms < 1000 else 0) * MINUTE
        print(f"HOLDFAST_NIGHT_SEED={seed}: {night.last_work_s / night.ideal_s() - 1:+.1%} to the ideal makespan")
        assert night.last_work_s <= 1.1 * night.ideal_s() + slack_s, "slots were idle while tasks waited"
        assert not night.granted(), "a slot was lost"
        assert all(agent.enabled for agent in catalog.agents.list())


def estate(
    catalog: Catalog, chance: random.Random, vms: int, proxies: int, repositories: int, jobs: int
) -> dict[str, list[Vm]]:
    """Everything stands in the catalogue; the VMs of each job are returned.

    What holds jobs of low priority back, limits of theirs or slots of their few repositories, would leave proxies idle
    at the end of the night, as their owner wishes; so there is none of that here.
    """
    catalog.servers.add(ServerEntry(name="lab", plugin="images", limits=ServerLimits(tasks_per_host=6)))
    for number in range(proxies):
        agent = AgentEntry(
            name=f"p{number}", endpoint="x:1", public_key="k" * 40, roles=(AgentRole.PROXY,),
            proxy_slots=chance.choice((1, 2, 2, 3)),
        )  # fmt: skip
        catalog.agents.add(agent)
    for number in range(repositories):
        store = AgentEntry(
            name=f"store{number}", endpoint="x:1", public_key="k" * 40, roles=(AgentRole.REPOSITORY,),
            repository_slots=32,
        )  # fmt: skip
        catalog.agents.add(store)
        catalog.repositories.add(
            RepositoryEntry(
                name=f"r{number}", agent=store.name, path="/r", repository_id="00" * 16, encrypted=False, slots=32
            )
        )
    found: dict[str, list[Vm]] = {}
    for number in range(jobs):
        catalog.jobs.add(
            JobSpec(
                name=f"j{number}",
                server="lab",
                include=("*",),
                repository=f"r{number % repositories}",
                priority=(Priority.NORMAL, Priority.LOW, Priority.HIGH)[number % 3],
                max_tasks=max(4, vms // jobs // 12) if number == 2 else None,
                schedule=JobSchedule(start=("daily 22:00",), retry_pause_s=120.0),
            )
        )
        found[f"j{number}"] = [
            Vm(
                f"vm{number}-{each}",
                f"h{chance.randrange(max(4, vms // 80))}",
                tuple(chance.uniform(2, 10) * MINUTE for _ in range(chance.choice((1, 1, 1, 2)))),
            )
            for each in range(vms // jobs)
        ]
    return found


def settled(catalog: Catalog) -> bool:
    """Nothing is to be run again."""
    return all(facts.state.retry_at is None and facts.state.session is None for facts in catalog.runs.look())


def has_reason(catalog: Catalog, job: str) -> bool:
    newest = catalog.sessions.list(job=job, limit=1)[0]
    return newest.error is not None or any(task.error is not None for task in catalog.tasks.list(newest.id))
