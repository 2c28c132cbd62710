"""Which commands take a second person where approvals are required, and why the others do not: a pure table.

Four eyes stand before what makes restore points go or the next ones stay away for good, and before what lets somebody
do that: nobody alone should be able to destroy what all others rely on. A command that changes anything is in exactly
one of the two tables, which a test holds; ``docs/reference/approvals.md`` is written from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .commands import CommandPath


def _paths(*commands: str) -> tuple[CommandPath, ...]:
    return tuple(tuple(command.split()) for command in commands)


_SLOT: Final = "always: who has a passphrase needs no manager; without one a lost manager takes all points with it"

NEEDED: Final[Mapping[CommandPath, str]] = MappingProxyType(
    {
        ("prune",): "each restore point that would go",
        ("unprotect",): "always",
        ("repository", "remove"): "always",
        ("repository", "evacuate"): "always, and again each time that it is begun: its points go when they stand "
        "elsewhere",
        ("job", "create"): "when it would rule the points that an earlier job of its name has left",
        ("job", "edit"): "a retention, immutability, minimum or undo window that keeps less",
        ("job", "remove"): "always: its VMs are backed up no more",
        ("apply",): "what is said here of repositories, agents and jobs that it removes, and of jobs that it changes",
        ("agent", "remove"): "always: what it reads is backed up no more",
        ("key", "add"): _SLOT,
        ("key", "change"): _SLOT,
        ("key", "remove"): _SLOT,
        ("key", "paper"): "always: it is the master key itself",
        ("config", "backup"): "through the API: the keys leave the manager's host. On it, where it runs each night, "
        "its owner can read them as it is",
        ("user", "add"): "always",
        ("user", "edit"): "rights that the user did not have, a new key or password, and whatever touches an "
        "administrator; never shutting somebody out (`--disable`, `--revoke-tokens`), nor taking rights from others",
        ("user", "remove"): "always: it may be the only one who can grant",
        ("user", "token"): "always: it has the user's rights",
        ("approval", "waive"): "always",
    }
)
"""What of each command waits for somebody else."""

_REASONS: Final = (
    (
        "It adds or gives back, and takes nothing away.",
        _paths(
            "agent add", "server add", "repository add", "repository copy", "repository heal",
            "repository group create", "network rule add", "protect", "point undo-prune",
        ),
    ),
    (
        "What it sets can be set back, and points stay. What is not backed up meanwhile is told as unprotected.",
        _paths(
            "agent edit", "agent disable", "agent enable", "server edit", "repository edit", "repository seal",
            "repository unseal", "repository group edit", "network prefer", "network rule edit", "network rule remove",
            "network rule disable", "network rule enable", "job disable", "job enable",
        ),
    ),
    ("It is refused while a job needs what would go.", _paths("server remove", "repository group remove")),
    (
        "It runs or stops work that keeps or proves points; the next run does what this one left.",
        _paths(
            "job run", "job retry", "job stop", "session stop", "repository verify", "repository rescan",
            "repository rebuild-index", "verify boot", "benchmark", "plugin check", "notifier test", "server clean",
        ),
    ),
    (
        "It frees the space of points that were pruned, which was agreed on, and whose undo window is over.",
        _paths("repository gc"),
    ),
    ("It deletes the history of sessions; points stay, and so does the audit log.", _paths("session prune")),
    ("Who types it has the passphrase or the paper key already.", _paths("repository unlock")),
    ("New blocks get a new key; all old ones stay readable.", _paths("key rotate")),
    (
        "It acts on VMs, and on copies of what points hold, never on a point: that is what the right to restore is.",
        _paths(
            "restore disk", "restore files", "restore vm", "instant start", "instant stop", "instant migrate",
            "instant resume", "export start", "export stop", "export resume", "export discard", "point mount",
        ),
    ),
    (
        "It runs on the manager's own host alone, whose owner needs no command (see the threat model).",
        _paths("init", "db migrate", "config restore"),
    ),
    ("It is the second person's, or calls for one.", _paths("approval grant", "approval refuse", "approval require")),
)  # fmt: skip

ALONE: Final[Mapping[CommandPath, str]] = MappingProxyType(
    {path: reason for reason, paths in _REASONS for path in paths}
)
"""Why a command that changes something takes nobody else."""
