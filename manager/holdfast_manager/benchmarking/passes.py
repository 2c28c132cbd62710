"""Three transfers by real movers from a proxy to a repository's host, of which nothing stays."""

from __future__ import annotations

import contextlib
import queue
import secrets
from collections.abc import Callable, Iterator

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import RepositoryFull, from_record
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import DEFAULT_BLOCK_LOG2, Geometry
from holdfast_agent.model.rules import Compression, TransferRules
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.wire.messages import DiskFacts, MoverChanged, OpenRepository, ProbeDisk, Push, RepositoryFacts
from holdfast_agent.wire.specs import BackupOrder, BenchmarkSpec, BenchmarkStage, SourceSpec
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.repository_keys import repository_keys
from holdfast_manager.catalog.values import RepositoryEntry
from holdfast_manager.sessions.agents import AgentPool, LeaseKeeper
from holdfast_manager.sessions.events import Event, MoversConnected, TaskFailed, TaskKey, TransferFinished
from holdfast_manager.sessions.movers import MoverDesk
from holdfast_manager.sessions.routing import Routing
from holdfast_manager.settings import TimingSettings

Tell = Callable[[BenchmarkStage, TransferCounters], None]
_TICK_S = 1.0


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure with. ``disk``: a disk URL on the proxy, "" for a load that is made up there."""

    proxy: str
    repository: str
    disk: str = ""
    size_bytes: int = 1 << 30
    rules: TransferRules = TransferRules()


def measure(
    catalog: Catalog, wish: Wish, keys: KeyPair, timing: TimingSettings, tell: Tell
) -> dict[BenchmarkStage, TransferCounters]:
    """Run the passes one after the other; ``tell`` is called about twice a second with what has been done so far.

    Whatever ends it, the lease is given back, which ends the movers and removes the throw-away target; if this process
    is killed the lease runs out instead. Raises what agents and movers raise, and ``RepositoryFull`` beforehand.
    """
    bench = _Bench(catalog, wish, keys, timing, tell)
    with contextlib.closing(bench.pool), LeaseKeeper(timing.heartbeat, (bench.pool.renew,)):
        size_bytes = bench.check()
        return {stage: bench.run(stage, size_bytes) for stage in BenchmarkStage}


class _Bench:
    def __init__(self, catalog: Catalog, wish: Wish, keys: KeyPair, timing: TimingSettings, tell: Tell) -> None:
        self._wish = wish
        self._tell = tell
        self._repository: RepositoryEntry = catalog.repositories.get(wish.repository)
        self._data_keys = repository_keys(catalog, self._repository).data_keys()
        self._inbox: queue.SimpleQueue[tuple[str, Push | AgentLost] | Event] = queue.SimpleQueue()
        lease = f"benchmark-{secrets.token_hex(8)}"
        self.pool = AgentPool(
            catalog, keys, lease, timing.lease_ttl, lambda agent, push: self._inbox.put((agent, push))
        )
        self._stage = BenchmarkStage.READ
        self._desk = MoverDesk(self.pool, Routing(catalog, self.pool), self._inbox.put, self._progressed)

    def check(self) -> int:
        """How much is measured with, in bytes. Raises before anything was begun what stands against it."""
        request = OpenRepository(repository=self._repository.path)
        facts = self.pool.ask(self._repository.agent, request, RepositoryFacts)
        size_bytes = self._wish.size_bytes
        if self._wish.disk:
            disk = self.pool.ask(self._wish.proxy, ProbeDisk(disk=self._wish.disk), DiskFacts)
            size_bytes = min(size_bytes, disk.size_bytes)
        if facts.free_bytes < 2 * size_bytes:
            raise RepositoryFull(path=self._repository.path)
        return size_bytes

    def run(self, stage: BenchmarkStage, size_bytes: int) -> TransferCounters:
        """One pass to its end."""
        self._stage = stage
        task = TaskKey("benchmark", stage.value)
        try:
            self._start(task, stage)
            for event in self._events():
                if isinstance(event, MoversConnected):
                    disk = self._wish.disk or f"synthetic:/{size_bytes}"
                    geometry = Geometry(size_bytes, DEFAULT_BLOCK_LOG2)
                    self._desk.begin(task, BackupOrder(geometry=geometry, disks=(disk,), mode=ChangeMode.ALLOCATION))
                elif isinstance(event, TransferFinished):
                    return self._desk.outcome(task).counters
                elif isinstance(event, TaskFailed):
                    raise from_record(event.error)
        finally:
            self._desk.stop(task)
        raise AssertionError("events never end")

    def _start(self, task: TaskKey, stage: BenchmarkStage) -> None:
        rules = self._wish.rules
        if stage is BenchmarkStage.SEND:
            rules = msgspec.structs.replace(rules, compression=Compression.NONE)
        self._desk.start(
            task,
            self._repository.agent,
            lambda name, secret: BenchmarkSpec(
                task_id=name, secret=secret, rules=rules, repository=self._repository.path, stage=stage
            ),
            self._wish.proxy,
            lambda name, secret, endpoints: SourceSpec(
                task_id=name, secret=secret, rules=rules, endpoints=endpoints, keys=self._data_keys
            ),
        )

    def _events(self) -> Iterator[Event]:
        """What happens to the movers, for ever. Raises the error of an agent that is lost."""
        while True:
            try:
                item = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                self._desk.tick()
                continue
            if isinstance(item, Event):
                yield item
                continue
            _agent, push = item
            if isinstance(push, AgentLost):
                raise push.error
            if isinstance(push, MoverChanged):
                self._desk.deliver(push)

    def _progressed(self, _task: TaskKey, counters: TransferCounters) -> None:
        self._tell(self._stage, counters)
