"""What every other program is asked to do with the same disk, each in its own way and as its users run it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast_agent.model.geometry import Extent

PASSPHRASE = "benchmark"  # noqa: S105 - protects nothing


class NotOffered(Exception):
    """The program has nothing that could be compared."""


class Peer:
    """A program beside which we measure. ``home`` is its folder; what it stores lies in ``home/repo``.

    In this order: :meth:`make_repository`, :meth:`show`, :meth:`run` twice, :meth:`show` with what changed,
    :meth:`run_told`, :meth:`restore_to`, :meth:`check`, :meth:`close`, which is always called. What is timed is
    :meth:`run`, :meth:`run_told`, :meth:`restore_to` and :meth:`check`.
    """

    name: str
    how_to_get: str

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        raise NotImplementedError

    def make_repository(self, home: Path) -> None:
        (home / "repo").mkdir(parents=True)

    def show(self, home: Path, image: Path, changed: Sequence[Extent] = ()) -> None:
        """Bring the disk that it reads to the state of ``image``; most read the image itself."""

    def run(self, home: Path, image: Path) -> None:
        """Back up the image: in full the first time. It is read again each time, as that of a running VM must be."""
        raise NotImplementedError

    def run_told(self, home: Path, image: Path, changed: Sequence[Extent]) -> None:
        """Back it up, told what changed since the last time; those that cannot be told read it all."""
        self.run(home, image)

    def restore_to(self, home: Path, folder: Path) -> None:
        """Restore the newest backup to somewhere below ``folder``."""
        raise NotImplementedError

    def check(self, home: Path) -> None:
        """Read, decode and compare all data."""
        raise NotOffered

    def close(self, home: Path) -> None:
        """End whatever runs for it."""


def output_of(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """What the command prints. Raises with what it complains about."""
    done = subprocess.run(
        list(map(str, command)), env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout
