"""Who acts: what rights are checked against, and what the audit log writes down."""

from __future__ import annotations

import os
import pwd

import msgspec

from holdfast_agent.errors import Denied

from .roles import ROLES, Right, Role
from .values import UserEntry

_MOST_CHARACTERS = 64


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """One person or program, for one request. Never kept: rights may be taken away at any time.

    ``name``: a user's, or the name of an account of this host. ``place``: from where, for people: "local",
    "api 10.0.0.7", "web 10.0.0.7". ``local``: has the manager's own files in hand, so that rights do not bind it.
    """

    name: str
    place: str
    rights: frozenset[Right]
    local: bool = False

    @classmethod
    def of(cls, user: UserEntry, place: str) -> Actor:
        """A user who has proved to be that. ``place`` says where from."""
        return cls(name=user.name, place=place, rights=user.rights)

    @classmethod
    def of_this_process(cls) -> Actor:
        """Whoever runs a command on the manager's own host: may do everything, as the owner of its files can."""
        through = os.environ.get("SUDO_USER", "")
        by = f"local, sudo by {through[:_MOST_CHARACTERS]}" if through and through.isprintable() else "local"
        return cls(name=account_name(os.geteuid()), place=by, rights=frozenset(Right), local=True)

    @classmethod
    def service(cls) -> Actor:
        """The Backup Service, for what it does of its own accord."""
        return cls(name="service", place="local", rights=frozenset(Right), local=True)

    def require(self, right: Right, what: str = "this") -> None:
        """Raises ``Denied`` (with the roles that could) unless the actor has the right. ``what`` is for people."""
        if right not in self.rights:
            able = " or ".join(role for role in Role if right in ROLES[role])
            raise Denied(reason=f"{self.name} may not do {what}: it takes the right to {right}, which {able} has")


def account_name(uid: int) -> str:
    """The name of an account of this host, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
