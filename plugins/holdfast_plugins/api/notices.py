"""The protocol of notifiers, and what they are given to tell."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import msgspec


class Severity(StrEnum):
    """How much a notice matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A session has ended.

    ``key`` is the same for every attempt to deliver this notice: a receiver may get one twice, and knows it by that.
    ``host``: the manager's. ``subject`` is one line; ``text`` a report for people; ``html`` the same as one HTML
    document that refers to nothing outside. ``facts``: the document of `holdfast session show --output json`, without
    secrets. ``started`` and ``ended`` are Unix seconds. Names in all of them may come from a hypervisor: they hold no
    control characters in ``subject``.
    """

    key: str
    severity: Severity
    session: int
    kind: str
    job: str
    result: str
    host: str
    started: float
    ended: float
    subject: str
    text: str
    html: str
    facts: dict[str, Any]


class Notifier(Protocol):
    """Delivers notices to one place. Made by the registered factory for each delivery; used by one thread."""

    def send(self, notice: Notice, timeout_s: float) -> None:
        """Deliver; returns when the receiver has taken it.

        Called after the session has ended, in a process that runs no session. Must end within ``timeout_s``, by
        time-outs of its own on everything that it waits for; who does not is left behind, and counts as failed. Raises
        ``NotDelivered`` (tried again for a day, more and more seldom), or ``NoticeRefused`` when trying again cannot
        help.
        """
        ...
