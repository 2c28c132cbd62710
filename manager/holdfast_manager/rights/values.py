"""Users and entries of the audit log, as the catalogue hands them out and takes them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .roles import Right, Role, rights_of

UserName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
"""1 to 64 letters, digits, dots, dashes, underscores and "@"."""
BEGAN = "began"
DONE = "done"
DENIED = "denied"


class UserEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One user. ``public_key``: of the key pair by which the command line is known (Z85), or None.

    ``has_password``: whether there is one; it is never handed out. ``created``: Unix seconds.
    """

    name: UserName
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1)]
    public_key: str | None = None
    enabled: bool = True
    created: float = 0.0
    has_password: bool = False

    @property
    def rights(self) -> frozenset[Right]:
        """All that the user's roles give; nothing while disabled."""
        return rights_of(self.roles) if self.enabled else frozenset()


class TokenEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A token of a user, without the token. Times are Unix seconds; ``expires`` None: never."""

    id: int
    user: str
    label: str
    created: float
    expires: float | None = None


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written down. ``target``: the names of what was acted on; ``detail``: the command as it was given.

    ``outcome``: "began", "done", "denied", or the code of the error. ``concerns``: the number of the entry that began
    what this one tells the end of; 0: none.
    """

    actor: str
    place: str
    action: str
    target: str = ""
    outcome: str = DONE
    detail: str = ""
    concerns: int = 0


class AuditEntry(AuditRecord, frozen=True, kw_only=True):
    """A row of the log. Numbers follow each other without a gap. ``time``: Unix seconds."""

    number: int
    time: float
