"""What each role may do: a pure table. Everything that lets somebody act asks it, and nothing else decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Right(StrEnum):
    """What a command may take.

    ``VIEW``: see the configuration, sessions, points and reports; no content of any VM. ``OPERATE``: run, stop and
    switch jobs, look after repositories, prove points. ``RESTORE``: anything that shows or brings back what is in a
    restore point: restores, exports, instant recovery, the files of a guest. ``CONFIGURE``: change what is backed up,
    from where, where to. ``DELETE``: make restore points or history go. ``SECURE``: users, keys and passphrases, the
    audit log, approvals.
    """

    VIEW = "view"
    OPERATE = "operate"
    RESTORE = "restore"
    CONFIGURE = "configure"
    DELETE = "delete"
    SECURE = "secure"


class Role(StrEnum):
    """What a user is. One may have several roles: who both runs jobs and restores has two."""

    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    RESTORE_OPERATOR = "restore-operator"
    VIEWER = "viewer"


ROLES: Final[Mapping[Role, frozenset[Right]]] = MappingProxyType(
    {
        Role.ADMINISTRATOR: frozenset(Right),
        Role.OPERATOR: frozenset({Right.VIEW, Right.OPERATE}),
        Role.RESTORE_OPERATOR: frozenset({Right.VIEW, Right.RESTORE}),
        Role.VIEWER: frozenset({Right.VIEW}),
    }
)


def rights_of(roles: Iterable[Role]) -> frozenset[Right]:
    """All that any of the roles gives."""
    return frozenset[Right]().union(*(ROLES[role] for role in roles))
