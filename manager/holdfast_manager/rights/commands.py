"""What each command of the command line takes: a pure table, by which remote work is authorised.

A command without an entry is refused to everybody who is not on the manager's own host; a test holds the table against
the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from .roles import Right

CommandPath = tuple[str, ...]
"""The names of a command, such as ``("job", "run")``."""


class Rule(msgspec.Struct, frozen=True):
    """What a command takes. ``changes``: whether it changes anything, so that it is written to the audit log.

    What matters where it is typed on one host for the manager of another: ``writes``: the parameters that name files
    which it makes where it is typed, all other files are read there; ``replaces``: these may exist already. ``asks``:
    it reads standard input, or asks questions. ``stays``: why it cannot be sent; empty: it can. ``here``: it is about
    the place where it is typed, and always runs there.
    """

    right: Right
    changes: bool = False
    writes: frozenset[str] = frozenset()
    replaces: bool = False
    asks: bool = False
    stays: str = ""
    here: bool = False


UNKNOWN: Final = Rule(Right.SECURE, changes=True, stays="it has no rule")
"""For a command that the table does not know."""

_VIEW: Final = Rule(Right.VIEW)
_LOOK_INSIDE: Final = Rule(Right.RESTORE)
_OPERATE: Final = Rule(Right.OPERATE, changes=True)
_RESTORE: Final = Rule(Right.RESTORE, changes=True)
_CONFIGURE: Final = Rule(Right.CONFIGURE, changes=True)
_DELETE: Final = Rule(Right.DELETE, changes=True)
_SECURE: Final = Rule(Right.SECURE, changes=True)
_SEE_SECURE: Final = Rule(Right.SECURE)
_HERE: Final = Rule(Right.VIEW, here=True)
_ON_THE_HOST: Final = "it makes or moves the manager itself: run it on the manager's host"


_MOUNTS: Final = Rule(Right.RESTORE, changes=True, stays="it mounts files on the host where it runs: log in there")


def _stays(rule: Rule) -> Rule:
    return msgspec.structs.replace(rule, stays=_ON_THE_HOST)


def _asks(rule: Rule) -> Rule:
    return msgspec.structs.replace(rule, asks=True)


def _writes(rule: Rule, *parameters: str) -> Rule:
    return msgspec.structs.replace(rule, writes=frozenset(parameters))


def _group(name: str, **rules: Rule) -> dict[CommandPath, Rule]:
    return {(*name.split(), command.replace("_", "-")): rule for command, rule in rules.items()}


COMMANDS: Final[Mapping[CommandPath, Rule]] = MappingProxyType(
    {
        ("init",): _stays(_CONFIGURE),
        ("doctor",): _VIEW,
        **_group(
            "agent",
            add=_asks(_CONFIGURE), edit=_CONFIGURE, remove=_CONFIGURE, disable=_OPERATE, enable=_OPERATE,
            list=_VIEW, show=_VIEW,
        ),
        **_group(
            "server",
            add=_asks(_CONFIGURE), edit=_asks(_CONFIGURE), remove=_CONFIGURE, clean=_OPERATE, list=_VIEW, show=_VIEW,
        ),
        **_group(
            "repository",
            add=_asks(_CONFIGURE), edit=_CONFIGURE, remove=_DELETE, unlock=_asks(_SECURE),
            copy=_OPERATE, gc=_OPERATE, heal=_OPERATE, rebuild_index=_OPERATE, rescan=_OPERATE, verify=_OPERATE,
            seal=_OPERATE, unseal=_OPERATE, evacuate=_CONFIGURE,
            list=_VIEW, show=_VIEW, stats=_VIEW,
        ),
        **_group(
            "repository group",
            create=_CONFIGURE, edit=_CONFIGURE, remove=_CONFIGURE, list=_VIEW, show=_VIEW,
        ),
        **_group(
            "key",
            add=_asks(_SECURE), change=_asks(_SECURE), paper=_SECURE, remove=_SECURE, rotate=_SECURE, list=_VIEW,
        ),
        **_group("network", prefer=_CONFIGURE, show=_VIEW),
        **_group(
            "network rule",
            add=_CONFIGURE, edit=_CONFIGURE, remove=_CONFIGURE, disable=_CONFIGURE, enable=_CONFIGURE,
            list=_VIEW, show=_VIEW,
        ),
        **_group(
            "job",
            create=_CONFIGURE, edit=_CONFIGURE, remove=_CONFIGURE,
            disable=_OPERATE, enable=_OPERATE, retry=_OPERATE, run=_OPERATE, stop=_OPERATE, list=_VIEW, show=_VIEW,
        ),
        **_group("service", run=_stays(Rule(Right.SECURE)), show=_VIEW),
        **_group("notifier", list=_VIEW, test=_OPERATE),
        **_group("session", follow=_VIEW, list=_VIEW, show=_VIEW, stop=_OPERATE, prune=_DELETE),
        ("report",): msgspec.structs.replace(_writes(_VIEW, "file"), replaces=True),
        **_group(
            "point",
            list=_VIEW, show=_VIEW, diff=_LOOK_INSIDE, find=_LOOK_INSIDE, ls=_LOOK_INSIDE, volumes=_LOOK_INSIDE,
            undo_prune=_OPERATE, mount=_MOUNTS,
        ),
        ("prune",): _DELETE,
        ("protect",): _OPERATE,
        ("unprotect",): _DELETE,
        **_group("retention", simulate=_VIEW),
        **_group("restore", disk=_RESTORE, files=_RESTORE, vm=_RESTORE),
        **_group("verify", boot=_OPERATE),
        **_group(
            "instant", start=_RESTORE, stop=_RESTORE, migrate=_RESTORE, resume=_RESTORE, list=_VIEW,
        ),
        **_group("export", start=_RESTORE, stop=_RESTORE, resume=_RESTORE, discard=_RESTORE, list=_VIEW),
        ("benchmark",): _OPERATE,
        **_group(
            "plugin",
            list=_VIEW, check=_OPERATE,
            new=_HERE,
        ),
        **_group(
            "config",
            show=_VIEW, key=_VIEW, backup=_asks(_writes(_SECURE, "file")), restore=_stays(_SECURE),
        ),
        **_group("db", migrate=_stays(_CONFIGURE)),
        ("apply",): _CONFIGURE,
        **_group("user", add=_asks(_SECURE), edit=_asks(_SECURE), remove=_SECURE, list=_SEE_SECURE, token=_SECURE),
        **_group("approval", list=_SEE_SECURE, grant=_SECURE, refuse=_SECURE, require=_SECURE, waive=_SECURE),
        **_group("remote", add=_HERE, list=_HERE, remove=_HERE, check=_HERE),
        **_group("audit", list=_SEE_SECURE, verify=_SEE_SECURE),
    }
)  # fmt: skip


def rule_of(path: CommandPath) -> Rule:
    """The rule of a command; :data:`UNKNOWN` where there is none."""
    return COMMANDS.get(path, UNKNOWN)
