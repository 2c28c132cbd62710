"""What every kind of session does for its tasks: slots, a pair of movers, their end. Used by all actions."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import msgspec

from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import LeaseUnknown
from holdfast_agent.wire.messages import MoverChanged, Push
from holdfast_agent.wire.specs import Order
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import JobSpec, Priority, RepositoryEntry
from holdfast_manager.scheduler.preference import ranked
from holdfast_manager.scheduler.slots import SlotLedger, Wish
from holdfast_manager.steps import Step

from .agents import AgentPool
from .driver import Driver
from .events import SlotGranted, TaskFailed, TaskKey
from .movers import MoverDesk
from .recorder import Recorder
from .traffic import SessionTraffic


class Context(msgspec.Struct, frozen=True):
    """What the actions of one session share."""

    catalog: Catalog
    session: int
    driver: Driver
    recorder: Recorder
    pool: AgentPool
    desk: MoverDesk
    ledger: SlotLedger
    traffic: SessionTraffic
    repository: RepositoryEntry


class TaskWork:
    """Slots and movers of the session's tasks. ``tick`` and ``push`` belong to the driver's thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._requested: dict[TaskKey, float] = {}
        self._granted: dict[TaskKey, str] = {}
        self._repositories: dict[TaskKey, str] = {}
        self._failed_on: defaultdict[TaskKey, Counter[str]] = defaultdict(Counter)
        self._reasons: dict[TaskKey, str] = {}

    def request(
        self,
        key: TaskKey,
        proxies: Collection[str],
        also: tuple[str, ...] = (),
        *,
        preferred: Sequence[str] = (),
        near: Sequence[Collection[str]] = (),
        limits: tuple[str, ...] = (),
        job: JobSpec | None = None,
        repository: RepositoryEntry | None = None,
    ) -> None:
        """Queue for one of ``proxies``, the repository and ``also`` others; SlotGranted follows from a tick.

        ``repository``: None for the session's own. ``preferred``: the proxies wanted most, in this order; ``near``:
        those wanted next, in groups. ``limits``: of what else the task takes a slot. ``job``: whose share of the slots
        it has; None: the session's own.
        """
        number, repository = self._context.recorder.task(key).id, repository or self._context.repository
        with self._lock:
            failures = dict(self._failed_on[key])
        whole = set(proxies) == set(self._context.catalog.agents.proxies())
        wish = Wish(
            proxies=ranked(proxies, whole, preferred, (*near, (repository.agent,)), failures),
            repository=repository.name,
            also=also,
            limits=limits,
            job=job.name if job is not None else "",
            weight=(job.priority if job is not None else Priority.NORMAL).weight,
        )
        self._context.ledger.request(self._context.session, number, wish)
        with self._lock:
            self._requested[key] = time.monotonic()
            self._repositories[key] = repository.name
        self._context.driver.call_soon(self.tick)  # a free slot is taken at once, not at the next poll

    def proxy_of(self, key: TaskKey) -> str:
        """The proxy that was granted to a task."""
        with self._lock:
            return self._granted[key]

    def release(self, key: TaskKey) -> None:
        """Give back what the task holds or waits for. Idempotent."""
        with self._lock:
            self._requested.pop(key, None)
            proxy = self._granted.pop(key, None)
            if proxy is not None and self._context.recorder.task(key).error is not None:
                self._failed_on[key][proxy] += 1
        self._context.ledger.release(self._context.session, self._context.recorder.task(key).id)

    def begin(
        self, key: TaskKey, order: Order, *, reads: str = "", writes: str = "", own_limit: int | None = None
    ) -> None:
        """Give the task's movers their order, and first their share of what limits hold them.

        ``reads`` and ``writes``: the repositories that they read from and write to, "" for none. ``own_limit``: what
        the session was told for all its tasks together, in bytes per second; a job's is known by its name.
        """
        self._context.traffic.join(key, self._context.recorder.task(key).id, reads, writes, own_limit)
        self._context.desk.begin(key, order)

    def stop(self, key: TaskKey) -> None:
        """Stop the task's movers and release it."""
        self._context.desk.stop(key)
        self._context.traffic.leave(key)
        self.release(key)

    def tick(self) -> None:
        """Take the slots that were granted, tell why others wait, notice those that lapsed."""
        self._context.desk.tick()
        with self._lock:
            held = {self._context.recorder.task(key).id: key for key in (*self._requested, *self._granted)}
            waiting = bool(self._requested)
        if not waiting:
            return  # what is granted is renewed by the lease keeper
        state = self._context.ledger.poll(self._context.session)
        for grant in state.grants:
            self._grant(held.get(grant.task), grant.proxy)
        for wait in state.waits:
            key = held.get(wait.task)
            if key is not None and self._reasons.get(key) != wait.reason:
                self._reasons[key] = wait.reason
                self._context.recorder.change_task(key, reason=wait.reason)
        there = {grant.task for grant in state.grants} | {wait.task for wait in state.waits}
        for number, key in held.items():
            if number not in there:
                self._lapsed(key)

    def push(self, agent: str, push: Push | AgentLost) -> None:
        """An agent told something, or was lost."""
        if isinstance(push, MoverChanged):
            self._context.desk.deliver(push)
        elif isinstance(push, AgentLost):
            self._context.recorder.note(f"the connection to the agent {agent} was lost: {push.error.text}", "warning")
            name = f"adopt movers of {agent}"
            threading.Thread(target=self._context.desk.agent_lost, args=(agent,), name=name, daemon=True).start()

    def _grant(self, key: TaskKey | None, proxy: str) -> None:
        with self._lock:
            if key is None or key not in self._requested:
                return
            waited = time.monotonic() - self._requested.pop(key)
            self._granted[key] = proxy
        self._context.driver.post(
            SlotGranted(task=key, proxy=proxy, repository=self._repositories[key], waited_s=round(waited, 3))
        )

    def _lapsed(self, key: TaskKey) -> None:
        with self._lock:
            if key not in self._requested and key not in self._granted:
                return
            self._requested.pop(key, None)
            self._granted.pop(key, None)
        error = LeaseUnknown(lease=f"of the slots of {key}")
        self._context.driver.post(TaskFailed(task=key, error=error.to_record(), at=Step.SCHEDULE))
