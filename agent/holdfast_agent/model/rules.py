"""Transfer rules: how a mover pair may move its data."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Compression(StrEnum):
    """``LZ4`` is the default: on two cores it keeps pace with the disk; zstd stores a fifth less for twice the time."""

    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Route(msgspec.Struct, frozen=True):
    """The way that a data connection takes, as the mover on the proxy sees it: numeric addresses of both hosts."""

    proxy: str
    repository: str
    streams: int


class TransferRules(msgspec.Struct, frozen=True):
    """Handed to both movers at start, and again whenever they change while the task runs.

    ``bandwidth_bytes_per_s`` limits what this task sends (None: no limit), ``limited_by`` names what asks for that
    limit. ``streams`` is the number of connections of the data channel (1 … 16); it holds from the next connection on.
    """

    compression: Compression = Compression.LZ4
    streams: int = 1
    bandwidth_bytes_per_s: int | None = None
    limited_by: str = ""
