"""``python -m holdfast_agent.service.collector_process``: collects the garbage of one repository, for its agent.

A process of its own, so that the agent stays small and keeps answering, and so that whatever ends it ends it alone: the
collector's protocol needs no clean-up. It reads its task as one line of JSON on standard input, writes what the agent
pushes as lines of JSON on standard output, and stops when its standard input ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.immutability import Immutability
from holdfast_agent.repository.repository import Repository
from holdfast_agent.wire.messages import CollectEnded, CollectProgress, Push

from .trusted_clock import TrustedClock
from .workers import guarded

_PROGRESS_EVERY_S = 0.5
_LINGER_S = 10.0  # after the agent is gone or has said stop; no step without a look at the event takes so long


class CollectorTask(msgspec.Struct, frozen=True):
    """What the agent writes on standard input. ``repository``: real path, allowed by the agent's configuration."""

    ticket: str
    repository: str
    cache_dir: str
    clock_file: str
    dry_run: bool
    immutable_helper: str = ""
    host: RepositoryHost | None = None


def main() -> None:
    """Run one collection; always writes a :class:`CollectEnded` unless killed."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(1 << 16), type=CollectorTask)
    stop = threading.Event()
    threading.Thread(target=_watch, args=(stop,), daemon=True, name="watch").start()
    told_at = 0.0

    def progressed(phase: str, done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _PROGRESS_EVERY_S:
            told_at = time.monotonic()
            _tell(CollectProgress(ticket=task.ticket, phase=phase, done=done, total=total))

    def work() -> CollectEnded:
        clock = TrustedClock(Path(task.clock_file))
        place, cache = Path(task.repository), Path(task.cache_dir)
        repository = Repository.open(place, cache, clock=clock, host=task.host)
        immutability = Immutability(task.immutable_helper, place)
        with contextlib.closing(repository):
            if not task.dry_run:
                immutability.complete(repository)
            found = collect(
                repository,
                dry_run=task.dry_run,
                progress=progressed,
                stop=stop,
                release=lambda packs: immutability.release(packs, task.dry_run),
            )
        return CollectEnded(ticket=task.ticket, collection=found)

    outcome = guarded("garbage collection", work)
    if isinstance(outcome, HoldfastError):
        outcome = CollectEnded(ticket=task.ticket, error=outcome.to_record())
    _tell(outcome)


def _tell(push: Push) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(push) + b"\n")
    sys.stdout.buffer.flush()


def _watch(stop: threading.Event) -> None:
    """Standard input ends when the agent says stop, or is gone."""
    while os.read(0, 4096):
        pass
    stop.set()
    time.sleep(_LINGER_S)
    os._exit(1)


if __name__ == "__main__":
    main()
