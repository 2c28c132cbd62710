"""Four eyes: what one person asks for, and another grants. Pure: no database, no clock.

A request names the exact command and everything that it would act on; a grant is for that and nothing else, for a
while, and once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from holdfast_agent.errors import Denied, HoldfastError

from .actor import Actor

ASKED_S = 7 * 86400.0
"""So long a request waits for somebody."""
GRANTED_S = 86400.0
"""So long a grant waits for the command: what it acts on is looked at by who grants it, and must not grow old."""


class ApprovalState(StrEnum):
    """``ASKED`` and ``GRANTED`` end by ``expires`` too."""

    ASKED = "asked"
    GRANTED = "granted"
    REFUSED = "refused"
    USED = "used"


class ApprovalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One request. ``asker_local``: asked on the manager's own host. ``targets``: what would go. Times in Unix s."""

    id: int
    asker: str
    asker_local: bool
    action: str
    targets: tuple[str, ...]
    state: ApprovalState
    asked: float
    expires: float
    decider: str = ""
    decided: float | None = None


class ApprovalNeeded(HoldfastError):
    """The command was not carried out: somebody else has to grant it first."""

    code = "approval_needed"
    message = "{action} takes the approval of somebody else: it is asked for as request {number}"
    action = "When another administrator has granted it (`holdfast approval grant {number}`), give the command again"
    exit_code = 13


def digest(action: str, targets: Sequence[str]) -> str:
    """By which a grant is found again: of the command and all that it acts on."""
    return hashlib.sha256(msgspec.json.encode((action, list(targets)))).hexdigest()


def check_other(entry: ApprovalEntry, actor: Actor) -> None:
    """Raises ``Denied`` unless ``actor`` is another person than who asked.

    All who work on the manager's own host count as one: who owns its files can be any of them.
    """
    if entry.asker_local and actor.local:
        raise Denied(reason="this was asked for on the manager's own host: somebody decides who works through the API")
    if not entry.asker_local and not actor.local and entry.asker == actor.name:
        raise Denied(reason=f"{actor.name} asked for this: somebody else decides")
