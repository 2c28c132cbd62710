"""The job's bandwidth limit, split equally between the tasks that transfer, and split anew as they come and go."""

from __future__ import annotations

import logging
import threading

import msgspec

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.rules import TransferRules

from .events import TaskKey
from .movers import MoverDesk

log = logging.getLogger(__name__)


class BandwidthShare:
    """Hands each transferring task its rules. ``rules`` hold the limit of the whole job. Thread-safe."""

    def __init__(self, rules: TransferRules, desk: MoverDesk) -> None:
        self._rules = rules
        self._desk = desk
        self._lock = threading.Lock()
        self._transferring: set[TaskKey] = set()

    def first_rules(self) -> TransferRules:
        """Rules for movers that are about to start, which transfer nothing yet."""
        with self._lock:
            return self._share(len(self._transferring) + 1)

    def join(self, task: TaskKey) -> None:
        """``task`` is about to transfer: everybody's share shrinks first."""
        with self._lock:
            self._transferring.add(task)
            self._tell()

    def leave(self, task: TaskKey) -> None:
        """``task`` no longer transfers. Idempotent."""
        with self._lock:
            if task in self._transferring:
                self._transferring.remove(task)
                self._tell()

    def _share(self, tasks: int) -> TransferRules:
        limit = self._rules.bandwidth_bytes_per_s
        return msgspec.structs.replace(self._rules, bandwidth_bytes_per_s=max(1, limit // tasks) if limit else None)

    def _tell(self) -> None:
        if self._rules.bandwidth_bytes_per_s is None:
            return
        rules = self._share(len(self._transferring) or 1)
        for task in self._transferring:
            try:
                self._desk.change_rules(task, rules)
            except HoldfastError as error:  # its movers are ending, which their own events tell
                log.info("no new rules for %s: %s", task, error)
