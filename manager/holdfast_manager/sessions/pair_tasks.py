"""Tasks that are a pair of movers each: slots, start, order, stop. Restores, verifications, copies and heals.

What kind of movers and what order they get is all that differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from holdfast_agent.wire.specs import ReaderSpec
from holdfast_manager.catalog.values import JobSpec, RepositoryEntry
from holdfast_manager.scheduler.capacities import job_limit

from .events import Event, TaskKey, TaskStopped
from .instructions import BeginTransfer, ReleaseTask, RequestSlot, StartMovers, StopTask, TaskInstruction
from .movers import MakeConnector
from .tasks import Context, TaskWork


class PairTasks(ABC):
    """``perform`` carries out the instructions of task machines, for different tasks in different threads."""

    def __init__(self, context: Context, proxy: str, job: JobSpec | None = None) -> None:
        """``proxy``: where the movers run that are not the repository's; "": anywhere, first where ``job`` prefers.

        ``job``: whose limits hold and whose share of the slots the tasks have.
        """
        self.work = TaskWork(context)
        self._context = context
        self._proxy = proxy
        self.job = job

    def perform(self, instruction: TaskInstruction) -> Event | None:
        key = instruction.task
        match instruction:
            case RequestSlot():
                self._request(key)
            case StartMovers():
                return self.start(key)
            case BeginTransfer():
                return self.begin(key)
            case ReleaseTask():
                self.stop(key)
            case StopTask():
                self.stop(key)
                return TaskStopped(task=key)
        return None

    def _request(self, key: TaskKey) -> None:
        job = self.job
        limits = (job_limit(job.name, job.max_tasks),) if job is not None and job.max_tasks is not None else ()
        usable, preferred = self.proxies(key)
        own, *also = self.repositories(key)
        names = tuple(each.name for each in also)
        self.work.request(key, usable, names, preferred=preferred, limits=limits, job=job, repository=own)

    def repositories(self, key: TaskKey) -> tuple[RepositoryEntry, ...]:
        """Of which a task takes slots, the one that it is shown with first."""
        return (self._context.repository,)

    def proxies(self, key: TaskKey) -> tuple[Collection[str], Sequence[str]]:
        """Where the task's movers may run that are not the repository's, and in order those of them wanted most."""
        preferred = self.job.proxies if self.job is not None else ()
        return ((self._proxy,) if self._proxy else self._context.catalog.agents.proxies(preferred)), preferred

    def start_reader(self, key: TaskKey, connector: MakeConnector) -> None:
        """Have the desk start a reader at our repository, and at the task's proxy what takes its blocks."""
        repository = self._context.repository
        self._context.desk.start(
            key,
            repository.agent,
            lambda name, secret: ReaderSpec(task_id=name, secret=secret, repository=repository.path),
            self.work.proxy_of(key),
            connector,
        )

    @abstractmethod
    def start(self, key: TaskKey) -> Event:
        """Have the desk start the movers of a task."""

    @abstractmethod
    def begin(self, key: TaskKey) -> Event | None:
        """Have the desk give the order; TransferBegan, unless it was posted before."""

    def stop(self, key: TaskKey) -> None:
        """Stop the task's movers, if there are any, and give its slots back."""
        self.work.stop(key)
