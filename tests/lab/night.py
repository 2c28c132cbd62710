"""A night of backups in which only the movers and the time are simulated.

The service's watch over jobs, the catalogue, the ledger of slots, the state machines of sessions and their recorder are
the real ones. Hosts go and come back, tasks fail, sessions are killed, and the clock on the wall leaps.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import select

from holdfast_agent.errors import ConnectionLost, LeaseUnknown
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import new_sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.tables import sessions as session_rows
from holdfast_manager.catalog.tables import slot_requests
from holdfast_manager.catalog.values import JobSpec, PointEntryRow, ServerLimits, SessionEntry, SessionResult
from holdfast_manager.scheduler.capacities import job_limit, server_limits
from holdfast_manager.scheduler.slots import SlotLedger, Wish
from holdfast_manager.service.jobs import JobWatch
from holdfast_manager.service.starter import Starter
from holdfast_manager.sessions import events as e
from holdfast_manager.sessions import instructions as i
from holdfast_manager.sessions.backup_machine import BackupMachine
from holdfast_manager.sessions.recorder import Recorder
from holdfast_manager.sessions.retrying import vms_without_point
from holdfast_manager.sessions.task_machine import RetryPolicy
from holdfast_manager.steps import Step

TTL_S = 60.0
FAILS = 0.02
DEAD = msgspec.structs.replace(ProcessIdentity.current(), start_ticks=1)


@dataclass(frozen=True)
class Vm:
    """``takes_s``: for each disk, how long it is read."""

    name: str
    host: str
    takes_s: tuple[float, ...]


@dataclass
class Clocks:
    """``elapsed_s`` only grows; the clock on the wall may leap."""

    wall: float
    elapsed_s: float = 0.0

    def __call__(self) -> float:
        return self.wall

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed_s += seconds


@dataclass(eq=False)
class Work:
    """A pair of movers, and what it holds."""

    resources: tuple[str, ...]


class Session(msgspec.Struct, frozen=False, eq=False):
    """A session process. Events are taken in order, instructions are answered at once or by the clock."""

    night: Any
    entry: SessionEntry
    job: JobSpec
    machine: BackupMachine
    recorder: Recorder
    wanted: dict[int, e.TaskKey] = {}
    held: dict[int, e.TaskKey] = {}
    result: str = ""

    def tell(self, *events: e.Event) -> None:
        """As the driver does it."""
        inbox = list(events)
        while inbox and not self.result:
            event = inbox.pop(0)
            self.recorder.event(event, None)
            for instruction in self.machine.handle(event):
                inbox += self.perform(instruction)

    def perform(self, instruction: i.Instruction) -> list[e.Event]:
        night: Night = self.night
        match instruction:
            case i.EndSession():
                self.result = instruction.result
            case i.PlanVms():
                return [self.plan()]
            case i.PauseTask():
                night.later(instruction.seconds, self, e.RetryDue(task=instruction.task))
            case i.PauseVm():
                night.later(instruction.seconds, self, e.VmRetryDue(vm=instruction.vm))
            case i.RequestSlot():
                self.request(instruction.task)
            case i.StartMovers():
                night.start(self, instruction.task)
                return [e.MoversStarted(task=instruction.task, rules=""), e.MoversConnected(task=instruction.task)]
            case i.BeginTransfer():
                night.transfer(self, instruction.task)
                return [e.TransferBegan(task=instruction.task, mode=ChangeMode.CBT, reason="")]
            case i.StopTask() | i.ReleaseTask():
                self.release(instruction.task)
                return [e.TaskStopped(task=instruction.task)] if isinstance(instruction, i.StopTask) else []
            case i.VmInstruction():
                return [self.perform_vm(instruction)]
        return []

    def plan(self) -> e.Event:
        only = None
        if self.entry.spec.get("again"):
            only = vms_without_point(self.night.catalog, self.entry.spec["again"])
        planned = []
        for vm in self.night.vms[self.job.name]:
            if only is None or vm.name in only:
                disks = tuple(f"disk{number}" for number in range(len(vm.takes_s)))
                for disk in disks:
                    self.recorder.add_task(e.TaskKey(vm.name, disk), vm.name, disk, 1)
                planned.append(e.PlannedVm(vm.name, vm.name, disks))
        return e.VmsPlanned(vms=tuple(planned))

    def perform_vm(self, instruction: i.VmInstruction) -> e.Event:
        name = instruction.vm
        match instruction:
            case i.BeginRepositorySession():
                return e.RepositorySessionBegun(vm=name, sid="s", base=None)
            case i.ReadInventory():
                disks = tuple(f"disk{number}" for number in range(len(self.night.vm(name).takes_s)))
                return e.InventoryRead(vm=name, disks=disks)
            case i.TakeSnapshot():
                return e.SnapshotTaken(vm=name, snapshot="1", frozen_s=0, note="")
            case i.CommitPoint():
                self.night.commit(self, name)
                return e.PointCommitted(vm=name, sid="s")
            case i.RemoveSnapshot():
                return e.SnapshotRemoved(vm=name)
        return e.VmAbandoned(vm=name)

    def request(self, key: e.TaskKey) -> None:
        night: Night = self.night
        limits = server_limits("lab", night.server_limits, night.vm(key.vm).host, "")
        if self.job.max_tasks is not None:
            limits += (job_limit(self.job.name, self.job.max_tasks),)
        number = self.recorder.task(key).id
        wish = Wish(
            proxies=(("*",),), repository=self.job.repository, limits=limits, job=self.job.name,
            weight=self.job.priority.weight,
        )  # fmt: skip
        night.ledger.request(self.entry.id, number, wish)
        self.wanted[number] = key

    def release(self, key: e.TaskKey) -> None:
        number = self.recorder.task(key).id
        self.wanted.pop(number, None)
        self.held.pop(number, None)
        self.night.stop(self, key)
        self.night.ledger.release(self.entry.id, number)

    def look(self) -> None:
        """At the ledger, as a session does each second."""
        night: Night = self.night
        if not self.wanted:
            there = set(night.ledger.renew(self.entry.id))
        else:
            state = night.ledger.poll(self.entry.id)
            there = {grant.task for grant in state.grants} | {wait.task for wait in state.waits}
            for wait in state.waits:
                assert wait.reason
            for grant in state.grants:
                key = self.wanted.pop(grant.task, None)
                if key is not None:
                    self.held[grant.task] = key
                    granted = e.SlotGranted(task=key, proxy=grant.proxy, repository=grant.repository, waited_s=0)
                    self.tell(granted)
        for number, key in [*self.wanted.items(), *self.held.items()]:
            if number not in there and not night.requested_since(self.entry.id, number):
                night.lapses += 1
                error = LeaseUnknown(lease=f"of the slots of {key}").to_record()
                self.tell(e.TaskFailed(task=key, error=error, at=Step.SCHEDULE))
        self.recorder.flush()


class SimulatedStarter(Starter):
    """Writes sessions down as the service does, and runs them in the simulation."""

    def __init__(self, night: Night) -> None:
        self._night = night

    @property
    def has_room(self) -> bool:
        return True

    def start(self, begin: Callable[[], SessionEntry]) -> SessionEntry:
        entry = self._night.catalog.sessions.adopt(begin().id)
        self._night.begin(entry)
        return entry


@dataclass(eq=False)
class Night:
    """``vms``: of each job. What is limited stands in the catalogue."""

    catalog: Catalog
    clocks: Clocks
    chance: random.Random
    vms: Mapping[str, Sequence[Vm]]
    round_s: float
    sessions: dict[int, Session] = field(default_factory=dict)
    work: dict[tuple[int, e.TaskKey], Work] = field(default_factory=dict)
    timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    points: Counter[str] = field(default_factory=Counter)
    worked_s: Counter[str] = field(default_factory=Counter)
    offered: list[int] = field(default_factory=list)
    failures: int = 0
    lapses: int = 0
    killed: int = 0
    last_work_s: float = 0.0

    def __post_init__(self) -> None:
        self.ledger = SlotLedger(self.catalog, self.clocks, TTL_S)
        self.watch = JobWatch(self.catalog, SimulatedStarter(self))
        self.server_limits = self.catalog.servers.get("lab").limits or ServerLimits()
        self._by_name = {vm.name: vm for vms in self.vms.values() for vm in vms}
        self._order = itertools.count()
        self._before: Counter[str] = Counter()
        self._capacities: dict[str, int] | None = None

    def vm(self, name: str) -> Vm:
        return self._by_name[name]

    def at(self, elapsed_s: float, do: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self.timers, (elapsed_s, next(self._order), do))

    def later(self, seconds: float, session: Session, event: e.Event) -> None:
        self.at(self.clocks.elapsed_s + seconds, lambda: self._tell(session, event))

    def _tell(self, session: Session, event: e.Event) -> None:
        if session.entry.id in self.sessions:
            session.tell(event)

    def begin(self, entry: SessionEntry) -> None:
        job = self.catalog.jobs.get(entry.job)
        machine = BackupMachine(RetryPolicy(job.retries, job.retry_pause_s))
        session = Session(self, entry, job, machine, Recorder(self.catalog, entry.id))
        assert all(other.entry.job != entry.job for other in self.sessions.values()), "two sessions of one job"
        self.sessions[entry.id] = session
        session.tell(e.SessionStarted())

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Round after round, until everything is done."""
        while not until():
            self.offered.append(self.proxy_slots())
            while self.timers and self.timers[0][0] <= self.clocks.elapsed_s:
                heapq.heappop(self.timers)[2]()
            self.catalog.sessions.reap_dead()
            self.watch.look(self.clocks())
            order = list(self.sessions.values())
            self.chance.shuffle(order)
            for session in order:
                session.look()
                if session.result:
                    self._end(session)
                self.check()
            self.last_work_s = self.clocks.elapsed_s if self.work else self.last_work_s
            for work in self.work.values():
                self.worked_s.update(dict.fromkeys(work.resources, self.round_s))
            self.clocks.pass_time(self.round_s)
            assert self.clocks.elapsed_s < limit_s, "something waits for ever"

    def _end(self, session: Session) -> None:
        assert not session.held, "a session ends with slots"
        session.recorder.flush()
        self.catalog.sessions.end(session.entry.id, SessionResult(session.result), session.recorder.first_error)
        del self.sessions[session.entry.id]

    # --- what is simulated -----------------------------------------------------------------------------------------

    def start(self, session: Session, key: e.TaskKey) -> None:
        place = (session.entry.id, key)
        assert place not in self.work, "a task is worked on twice"
        self.work[place] = Work(self.granted()[session.entry.id, session.recorder.task(key).id])

    def transfer(self, session: Session, key: e.TaskKey) -> None:
        work = self.work[session.entry.id, key]
        takes_s = self.vm(key.vm).takes_s[int(key.disk.removeprefix("disk"))]
        event: e.Event = e.TransferFinished(task=key)
        if self.chance.random() < FAILS:
            self.failures += 1
            takes_s *= self.chance.random()
            error = ConnectionLost(peer="mover", reason="simulated").to_record()
            event = e.TaskFailed(task=key, error=error, at=Step.TRANSFER)

        def end() -> None:
            if self.work.get((session.entry.id, key)) is work:
                self._tell(session, event)

        self.at(self.clocks.elapsed_s + takes_s, end)

    def stop(self, session: Session, key: e.TaskKey) -> None:
        self.work.pop((session.entry.id, key), None)

    def commit(self, session: Session, vm: str) -> None:
        self.points[vm] += 1
        self.catalog.points.add(
            PointEntryRow(
                sid=new_sid(), repository=session.job.repository, server="lab", job=session.job.name, vm_id=vm,
                vm_name=vm, created=self.clocks(), size_bytes=1, session=session.entry.id,
            )
        )  # fmt: skip

    def lose(self, agent: str, for_s: float) -> None:
        """A host dies: what ran there fails; it is disabled, and comes back later."""
        entry = self.catalog.agents.get(agent)
        if not entry.enabled:
            return
        self._enable(agent, False)
        names = {f"proxy {agent}", f"repository host {agent}"}
        for (number, key), work in list(self.work.items()):
            if names.intersection(work.resources) and number in self.sessions:
                self.failures += 1
                error = ConnectionLost(peer=agent, reason="simulated").to_record()
                self.sessions[number].tell(e.TaskFailed(task=key, error=error, at=Step.TRANSFER))

        self.at(self.clocks.elapsed_s + for_s, lambda: self._enable(agent, True))

    def _enable(self, agent: str, enabled: bool) -> None:
        self.catalog.agents.update(msgspec.structs.replace(self.catalog.agents.get(agent), enabled=enabled))
        self._capacities = None

    def kill(self) -> None:
        """One session's process dies. Its movers end when the agents miss it."""
        if not self.sessions:
            return
        number = self.chance.choice(sorted(self.sessions))
        self.sessions.pop(number).recorder.flush()
        self.killed += 1
        dead = msgspec.to_builtins(DEAD)
        with self.catalog.database.writing() as connection:
            connection.execute(session_rows.update().where(session_rows.c.id == number).values(process=dead))
        self.work = {place: work for place, work in self.work.items() if place[0] != number}

    def leap(self, seconds: float) -> None:
        """The clock on the wall is set."""
        self.clocks.wall += seconds

    # --- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """No more is given out than there is, and whoever works holds what he works with."""
        held = self.granted()
        used = Counter(name for resources in held.values() for name in resources)
        capacities = self.capacities()
        for name, count in used.items():
            assert count <= max(capacities.get(name, 0), self._before[name]), f"{name} is given out beyond its limit"
        self._before = used
        for (number, key), work in self.work.items():
            task = self.sessions[number].recorder.task(key).id
            assert held.get((number, task)) == work.resources, "somebody works with what another may have by now"

    def capacities(self) -> dict[str, int]:
        """Of everything that is enabled now."""
        if self._capacities is None:
            self._capacities = self._read_capacities()
        return self._capacities

    def _read_capacities(self) -> dict[str, int]:
        found = {}
        for agent in self.catalog.agents.list():
            if agent.enabled:
                found[f"proxy {agent.name}"] = agent.proxy_slots if "proxy" in agent.roles else 0
                found[f"repository host {agent.name}"] = agent.repository_slots
        found |= {f"repository {each.name}": each.slots for each in self.catalog.repositories.list()}
        tasks_per_host = self.server_limits.tasks_per_host
        assert tasks_per_host is not None
        for vms in self.vms.values():
            for vm in vms:
                found[f"hypervisor host lab/{vm.host}"] = tasks_per_host
        for job in self.catalog.jobs.list():
            if job.max_tasks is not None:
                found[job_limit(job.name, job.max_tasks)] = job.max_tasks
        return found

    def proxy_slots(self) -> int:
        return sum(slots for name, slots in self.capacities().items() if name.startswith("proxy "))

    def ideal_s(self) -> float:
        """No schedule at all does the work that was done, failed attempts too, in less time."""
        work: float = sum(spent for name, spent in self.worked_s.items() if name.startswith("proxy "))
        rounds = 0
        while work > 0:
            work -= self.offered[min(rounds, len(self.offered) - 1)] * self.round_s
            rounds += 1
        others = [
            self.worked_s[name] / slots for name, slots in self.capacities().items() if not name.startswith("proxy ")
        ]
        return max(rounds * self.round_s, *others)

    def requested_since(self, session: int, task: int) -> bool:
        """Whether the task is in the ledger: requested after the session looked."""
        query = select(slot_requests.c.id).where(slot_requests.c.session == session, slot_requests.c.task == task)
        with self.catalog.database.reading() as connection:
            return connection.execute(query).first() is not None

    def granted(self) -> dict[tuple[int, int], tuple[str, ...]]:
        columns = (slot_requests.c.session, slot_requests.c.task, slot_requests.c.granted)
        query = select(*columns).where(slot_requests.c.granted.is_not(None))
        with self.catalog.database.reading() as connection:
            return {(row.session, row.task): tuple(row.granted) for row in connection.execute(query)}
