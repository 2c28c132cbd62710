"""Reading packs for a verification: several at once, the longest unchecked first, within a budget."""

from __future__ import annotations

import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from holdfast_agent.wire.messages import VerifyBudget

T = TypeVar("T")
THREADS = max(2, os.cpu_count() or 2)
"""Hashing and checksums release the interpreter's lock; one reader more than cores would only wait for the disk."""


def choose_packs(names: Sequence[str], checked: Mapping[str, float], budget: VerifyBudget, now: float) -> list[str]:
    """Packs to read, those never read or longest unread first, so that short runs go round the whole repository.

    ``checked``: Unix time of each pack's last good check. The sample is drawn anew by each run.
    """
    due = [name for name in names if now - checked.get(name, 0.0) >= budget.older_than_s]
    if budget.sample_percent < 100:
        due = random.SystemRandom().sample(due, math.ceil(len(due) * budget.sample_percent / 100))
    return sorted(due, key=lambda name: (checked.get(name, 0.0), name))


def in_parallel(
    names: Sequence[str], read: Callable[[str], T], stop: Callable[[], bool], max_duration_s: float = 0.0
) -> Iterator[tuple[str, T | Exception]]:
    """(name, what ``read`` gave or raised) of one pack after the other, :data:`THREADS` being read at any time.

    Ends early, without reading the rest, once ``max_duration_s`` (0: none) are over or ``stop`` says so; what was
    begun is still handed out. Memory: one record a thread.
    """
    deadline = time.monotonic() + max_duration_s if max_duration_s else math.inf
    remaining = iter(names)
    under_way: deque[tuple[str, Future[T]]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        while True:
            while len(under_way) < THREADS and not stop() and time.monotonic() < deadline:
                name = next(remaining, None)
                if name is None:
                    break
                under_way.append((name, pool.submit(read, name)))
            if not under_way:
                return
            name, future = under_way.popleft()
            problem = future.exception()
            if problem is None:
                yield name, future.result()
            elif isinstance(problem, Exception):
                yield name, problem
            else:
                raise problem
