"""Commands that take a repository or a group: done for one member after another, and told in one document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import msgspec

from holdfast_agent.errors import HoldfastError
from holdfast_manager.reports.sentences import counted

from .app import App
from .output import Collected, error_document
from .running import EXIT_CANCELLED

repository_or_group = click.argument("name", metavar="REPOSITORY|GROUP")
Total = Callable[[Sequence[Any]], tuple[dict[str, Any], str]]
"""From the documents of the members that went well: what is told of all together, for programs and for people."""


def in_each(
    app: App, name: str, do: Callable[[str], int], only: Iterable[str] | None = None, total: Total | None = None
) -> int:
    """Have ``do`` work in the repository ``name``, or in each member of the group ``name``; returns the exit code.

    ``do`` prints one result. Of a repository it is printed as it is; of a group all become parts of one document, with
    the exit code of each, and the worst is the group's. A member that fails keeps no other from its turn; one that is
    stopped does. ``only``: these members alone. Raises ``NotFound``, and for a repository what ``do`` raises.
    """
    if app.catalog.groups.named(name) is None:
        return do(name)
    members = [entry.name for entry in app.catalog.groups.behind(name)]
    told: list[dict[str, Any]] = []
    for member in members if only is None else [each for each in members if each in set(only)]:
        if told:
            app.out.note("")  # between what people read of two members
        told.append(_told(app, member, do))
        if told[-1]["exit_code"] == EXIT_CANCELLED:
            break
    if total is not None:
        app.out.note("")
    results = [each["result"] for each in told if each.get("result") is not None]
    more, text = total(results) if total is not None else ({}, "")
    app.out.result({"group": name, "members": told, **more}, "\n\n".join(filter(None, (text, _text(name, told)))))
    return max((each["exit_code"] for each in told), default=0)


def in_turn(app: App, key: str, of: dict[str, Any], work: Iterable[Callable[[], int]]) -> int:
    """Do one thing after another until one ends with 0. One document: ``of``, and the results under ``key``.

    Returns the exit code of the last. Raises what they raise.
    """
    collected = Collected(app.out)
    code = 0
    with app.telling(collected):
        for each in work:
            code = each()
            if code in (0, EXIT_CANCELLED):
                break
    app.out.result({**of, key: collected.documents}, "")
    return code


def _told(app: App, member: str, do: Callable[[str], int]) -> dict[str, Any]:
    collected = Collected(app.out)
    with app.telling(collected):
        try:
            code = do(member)
        except HoldfastError as error:
            record = error.to_record()
            code = collected.error(msgspec.structs.replace(record, message=f"{member}: {record.message}"))
            return {"repository": member, "exit_code": code, "error": error_document(record)}
    result = collected.documents[-1] if collected.documents else None
    return {"repository": member, "exit_code": code, "result": result}


def _text(name: str, told: Sequence[dict[str, Any]]) -> str:
    bad = [each["repository"] for each in told if each["exit_code"]]
    well = f"Group {name}: {len(told) - len(bad)} of {counted(len(told), 'member')} without fault"
    return f"{well}; not {', '.join(bad)}" if bad else well
