"""A clock that cannot be turned forward: what is kept until a time is not set free by setting the host's clock.

It shows the host's time, but never more than the time at which it was last seen plus what has really passed since.
While the host is up the kernel counts that, whatever is done to the clock. Over a restart nobody knows how long the
host was off, so it advances by at most :data:`MOST_AWAY_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from holdfast_agent.durable import replaced_file
from holdfast_agent.errors import ConfigInvalid
from holdfast_agent.model.strict import NOT_DECODED

MOST_AWAY_S: Final = 7 * 86400.0
"""How far the clock may advance over a restart of the host: a week outlasts holidays and repairs, and whoever turns the
clock while the host is off gains no more than that with each restart."""
DRIFT: Final = 0.001
"""Clocks that are kept in step by NTP run at most 0.05 % faster than the kernel counts."""
SAVE_EVERY_S: Final = 600.0
_MOST_BYTES = 4096


class Seen(msgspec.Struct, frozen=True):
    """The file: at ``uptime`` seconds after the start ``boot`` of the host it was ``latest`` at most, in Unix time."""

    latest: float
    uptime: float
    boot: str


class TrustedClock:
    """Unix seconds that can be trusted not to run ahead. Thread-safe: all state is in the file, replaced as a whole.

    Removing the file (which takes the rights of the agent's user) accepts the host's time as it is.
    """

    def __init__(
        self,
        file: Path,
        wall: Callable[[], float] = time.time,
        uptime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot: Callable[[], str] = lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    ) -> None:
        self._file = file
        self._wall = wall
        self._uptime = uptime
        self._boot = boot

    def __call__(self) -> float:
        """The time. Raises :class:`ConfigInvalid` if the file cannot be read or written."""
        wall, uptime, boot = self._wall(), self._uptime(), self._boot()
        seen = self._load()
        if seen is None:
            latest = wall
        elif seen.boot == boot:
            latest = seen.latest + max(0.0, uptime - seen.uptime) * (1 + DRIFT)
        else:
            latest = min(max(wall, seen.latest), seen.latest + MOST_AWAY_S)
        if seen is None or seen.boot != boot or uptime - seen.uptime >= SAVE_EVERY_S:
            self._save(Seen(latest, uptime, boot))
        return min(wall, latest)

    def _load(self) -> Seen | None:
        try:
            with self._file.open("rb") as file:
                return msgspec.json.decode(file.read(_MOST_BYTES), type=Seen)
        except FileNotFoundError:
            return None
        except (OSError, *NOT_DECODED) as error:
            raise self._unusable(str(error)) from error

    def _save(self, seen: Seen) -> None:
        try:
            with replaced_file(self._file) as file:
                file.write(msgspec.json.encode(seen))
        except OSError as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, reason: str) -> ConfigInvalid:
        told = f"{reason}; check the host's time, then remove the file while the agent is stopped"
        return ConfigInvalid(file=str(self._file), key="clock", reason=told)
