"""What an agent and the helper that may set ``chattr +i`` say to each other: one request and one answer a connection.

Each is a line of JSON on a Unix socket. Who asks is told by the kernel (SO_PEERCRED), never by the request.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast_agent.errors import ErrorRecord

LIMIT_BYTES: Final = 4 << 20
MOST_PACKS: Final = 20_000
"""Of one request: 45 bytes each and some to spare. Who has more asks again."""


class Protect(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Nobody shall remove these packs, the point and its retention before the time that the retention says.

    ``repository``: its real path. ``last``: the point's own file too, once all of its packs were named.
    """

    repository: str
    sid: str
    packs: tuple[str, ...]
    last: bool = True


class Release(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """These packs may be removed, as far as nothing that was protected needs them any more.

    ``dry_run``: only tell which of them would be kept.
    """

    repository: str
    packs: tuple[str, ...]
    dry_run: bool = False


class Answer(msgspec.Struct, frozen=True):
    """``kept``: packs of a Release that stay. ``until``: of a Protect. ``error``: nothing, or not all, was done."""

    kept: tuple[str, ...] = ()
    until: float = 0.0
    error: ErrorRecord | None = None


Ask = Protect | Release
