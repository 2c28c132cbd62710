"""Warnings and errors of a session, each once, with what it is about and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_manager.catalog.values import EventEntry, SessionEntry, TaskEntry

from .names import Names
from .steps import FAILURES

_TOKEN = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
"""As names of what each attempt makes anew have it. Ids of restore points are longer: each of them counts."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """``level`` is "warning" or "error". ``about`` names VMs and disks, or is empty. ``times``: how often it came."""

    level: str
    about: str
    message: str
    action: str = ""
    code: str = ""
    at: str = ""
    exit_code: int = 1
    times: int = 1


def problems(
    session: SessionEntry, tasks: Iterable[TaskEntry], events: Iterable[EventEntry], names: Names
) -> list[Problem]:
    """Warnings first, then errors, each in the order of their first appearance.

    A failure that a retry made good is a warning: the result is right, but somebody should look at it.
    """
    tasks = list(tasks)
    found: list[Problem] = []
    for event in events:
        found += _of_event(event, names)
    found += [_of_error(names.task(task.vm_id, task.disk_id), task.error) for task in tasks if task.error is not None]
    if session.error is not None:
        found.append(_of_error("", session.error))
    return _once(_softened(found, session))


def _of_event(event: EventEntry, names: Names) -> list[Problem]:
    about = names.subject(event)
    data = event.data
    if event.kind in FAILURES:
        try:
            error = msgspec.convert(data.get("error"), ErrorRecord)
        except msgspec.ValidationError:
            return [Problem(level="error", about=about, message="failed, with an error that cannot be read")]
        return [_of_error(about, error, str(data.get("at") or ""))]
    if event.kind == "Note":
        level = str(data.get("level", "info"))
        text = str(data.get("text", ""))
        return [Problem(level=level, about=about, message=text)] if level in ("warning", "error") else []
    if data.get("warning"):
        return [Problem(level="warning", about=about, message=str(data["warning"]), at=event.step or "")]
    return []


def _of_error(about: str, error: ErrorRecord, at: str = "") -> Problem:
    return Problem(
        level="error",
        about=about,
        message=error.message,
        action=error.action,
        code=error.code,
        at=at,
        exit_code=error.exit_code,
    )


def _softened(found: list[Problem], session: SessionEntry) -> list[Problem]:
    if session.result not in ("success", "warning"):
        return found
    return [msgspec.structs.replace(problem, level="warning") for problem in found]


def _once(found: list[Problem]) -> list[Problem]:
    """Equal problems together: an error is told of a disk, of its VM and of the session, by event and by row.

    Equal are also those that differ by what each attempt is called, such as its snapshot; the last is told.
    """
    merged: dict[tuple[str, str], list[Problem]] = {}
    whole = {f"{problem.message}. {problem.action}" for problem in found if problem.action}
    for problem in found:
        if problem.message in whole:
            continue  # a note that repeats an error with its advice
        merged.setdefault((problem.level, _TOKEN.sub("*", problem.message)), []).append(problem)
    ordered = [_merged(same) for same in merged.values()]
    return sorted(ordered, key=lambda problem: problem.level == "error")


def _merged(same: list[Problem]) -> Problem:
    places = list(dict.fromkeys(problem.about for problem in same if problem.about))
    told_by_disk = {place.partition("/")[0] for place in places if "/" in place}
    about = ", ".join(place for place in places if place not in told_by_disk)
    times = max(1, sum(1 for problem in same if problem.at))
    at = next((problem.at for problem in same if problem.at), "")
    return msgspec.structs.replace(same[-1], about=about, at=at, times=times)
