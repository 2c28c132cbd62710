"""How long the movers of a task bear with the network between them."""

from __future__ import annotations

import msgspec


class LinkTimeouts(msgspec.Struct, frozen=True):
    """In seconds.

    ``silence_s``: nothing at all came by one of the TCP connections, not even what libzmq says at both ends four times
    in that time, however busy the movers are and however slow the line is. TCP itself would wait for a quarter of an
    hour. ``stall_s``: no record of the other mover, which sends one at least every 5 s unless it hangs. ``resume_s``:
    how long the connection is sought anew after it was lost; 0: it is not.
    """

    silence_s: float = 15.0
    stall_s: float = 120.0
    resume_s: float = 120.0
