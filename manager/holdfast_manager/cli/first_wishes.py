"""What the options of `holdfast init` ask for, as the commands that do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_agent.errors import UsageError

Line = tuple[str, ...]
"""A command without "holdfast"."""
SCHEDULE = "daily 22:00"
_BELONG_TO = {
    "token_file": "agent", "passphrase_file": "repository", "no_encryption": "repository", "options": "server",
    "secret_file": "server",
}  # fmt: skip
"""Options that say nothing without another."""


@dataclass(frozen=True)
class Wish:
    """One step: the ``kind`` and name of what it makes, and the command that makes it."""

    kind: str
    name: str
    line: Line


Wishes = tuple[Wish, ...]


def wishes_of(given: Mapping[str, Any]) -> Wishes:
    """The steps that options ask for, in their order.

    Raises :class:`UsageError` for options that belong to a step which is not asked for.
    """
    names = {kind: _pair(given[kind], f"--{kind}") for kind in ("agent", "repository", "server") if given[kind]}
    for option, kind in _BELONG_TO.items():
        if given[option] and kind not in names:
            raise UsageError(reason=f"--{option.removesuffix('s').replace('_', '-')} goes with --{kind}")
    wishes = []
    if "agent" in names:
        name, place = names["agent"]
        token = _file("--token-file", given["token_file"]) or ("--token",)
        wishes.append(Wish("agent", name, ("agent", "add", name, place, *token)))
    if "repository" in names:
        name, place = names["repository"]
        if "agent" not in names:
            raise UsageError(reason="--repository goes with --agent; later: `holdfast repository add`")
        sealing = _file("--passphrase-file", given["passphrase_file"])
        sealing += ("--no-encryption",) if given["no_encryption"] else ()
        wishes.append(Wish("repository", name, repository_line(name, names["agent"][0], place, "--create", *sealing)))
    if "server" in names:
        name, plugin = names["server"]
        told = tuple(word for option in given["options"] for word in ("--option", option))
        secret = _file("--secret-file", given["secret_file"])
        wishes.append(Wish("server", name, ("server", "add", name, "--plugin", plugin, *told, *secret)))
    if given["job"]:
        if not {"repository", "server"} <= names.keys():
            raise UsageError(reason="--job goes with --repository and --server; later: `holdfast job create`")
        wishes.append(Wish("job", given["job"], job_line(given["job"], names["server"][0], names["repository"][0])))
    return tuple(wishes)


def repository_line(name: str, agent: str, path: str, *more: str) -> Line:
    """The command that makes or opens a repository."""
    return ("repository", "add", name, "--agent", agent, "--path", path, *more)


def job_line(name: str, server: str, repository: str) -> Line:
    """The command that makes a first job: everything, every night."""
    what = ("--server", server, "--include", "*", "--repository", repository)
    return ("job", "create", name, *what, "--schedule", SCHEDULE)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name and value):
        raise UsageError(reason=f"{option} takes NAME=…, not {text!r}; see `holdfast init --help`")
    return name, value


def _file(option: str, file: Path | None) -> Line:
    return () if file is None else (option, str(file))
