"""Has sessions die or stop at one of their acts: Python loads this by itself where its directory is in PYTHONPATH.

An act is named by the kind of session, what is done, "before" or "after", and which time it is that this is done, such
as ``evacuate TombstonePoints after 1``. Each that is come to is a line in the file $HOLDFAST_ACTS; before the one that
$HOLDFAST_DIES_AT names returns, the process gets SIGKILL; at that of $HOLDFAST_STOPS_AT, SIGSTOP. An agent that
commits has acts of the kind ``agent``.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_lock = threading.Lock()
_count: Counter[str] = Counter()
_kind = ""  # of the session that this process is


def _act(what: str, when: str) -> None:
    if not _kind:
        return
    with _lock:
        _count[f"{what} {when}"] += 1
        name = f"{_kind} {what} {when} {_count[f'{what} {when}']}"
        with Path(os.environ["HOLDFAST_ACTS"]).open("a") as acts:
            acts.write(f"{name}\n")
        if name == os.environ.get("HOLDFAST_DIES_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == os.environ.get("HOLDFAST_STOPS_AT"):
            # To this thread: of a signal to the process another thread may learn first, and this one goes on meanwhile.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _between(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an act."""

    @functools.wraps(function)
    def act(*arguments: Any, **keywords: Any) -> Any:
        _act(what, "before")
        result = function(*arguments, **keywords)
        _act(what, "after")
        return result

    return act


def _put_around(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """``around`` is called in place of a function or a method, with that as its first argument."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def instead(*arguments: Any, **keywords: Any) -> Any:
        return around(real, *arguments, **keywords)

    setattr(owner, name, instead)


def _be(kind: str) -> None:
    global _kind
    _kind = kind


def _hook_evacuations() -> None:
    from holdfast_agent.wire.messages import RetainPoint, TombstonePoints
    from holdfast_manager.catalog.points import Points
    from holdfast_manager.catalog.repositories import Repositories
    from holdfast_manager.catalog.sessions import Sessions
    from holdfast_manager.sessions import evacuating

    def evacuates(begin: Callable[..., None], self: Any, *arguments: Any) -> None:
        _be("evacuate")
        begin(self, *arguments)

    def run_child(run: Callable[..., Any], settings: Any, catalog: Any, begin: Any, stopped: Any) -> Any:
        return run(settings, catalog, _between("begin", begin), stopped)

    def ask(asked: Callable[..., Any], self: Any, repository: str) -> Any:
        plain = asked(self, repository)

        def told(request: Any, reply: Any) -> Any:
            does = isinstance(request, RetainPoint | TombstonePoints)
            return (_between(type(request).__name__, plain) if does else plain)(request, reply)

        return told

    _put_around(evacuating.Evacuation, "__init__", evacuates)
    _put_around(evacuating, "run_child", run_child)
    _put_around(evacuating._Connections, "ask", ask)
    for owner, names in (
        (Points, ("set_retention", "set_boot", "cast_doubt", "remove")),
        (Repositories, ("set_sealed",)),
        (Sessions, ("end",)),
        (evacuating, ("run_child",)),
    ):
        for name in names:
            setattr(owner, name, _between(name, getattr(owner, name)))


def _hook_machines() -> None:
    from holdfast_manager.sessions.driver import Driver

    def runs(run: Callable[..., str], self: Any, machine: Any, actions: Any) -> str:
        _be(type(actions).__name__.removesuffix("Actions").lower())
        return run(self, machine, actions)

    def performs(perform: Callable[..., None], self: Any, instruction: Any, actions: Any, workers: Any) -> None:
        _act(type(instruction).__name__, "before")
        perform(self, instruction, actions, workers)
        _act(type(instruction).__name__, "after")

    _put_around(Driver, "run", runs)
    _put_around(Driver, "_perform", performs)


def _hook_commits() -> None:
    from holdfast_agent.repository.repository import Repository
    from holdfast_manager.catalog.pending_points import PendingPoints
    from holdfast_manager.catalog.points import Points

    def commits(commit: Callable[..., None], *arguments: Any) -> None:
        _be("agent")
        _between("commit", commit)(*arguments)

    _put_around(Repository, "commit", commits)
    acts: tuple[tuple[type, str], ...] = ((PendingPoints, "write"), (Points, "add"))
    for owner, name in acts:
        setattr(owner, name, _between(name, getattr(owner, name)))


if "HOLDFAST_ACTS" in os.environ:
    _hook_commits()
    _hook_evacuations()
    _hook_machines()
