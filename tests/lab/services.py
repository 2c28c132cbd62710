"""Backup Services of an installation, run as users run them, and killed as they are not."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionEntry, SessionResult
from holdfast_manager.nursery import door
from holdfast_manager.settings import ManagerSettings
from lab.installation import STOP_TIMEOUT_S, Installation
from lab.processes import children
from lab.waiting import wait_until

START_TIMEOUT_S = 60.0
SOON = ("--schedule", "calendar *:*:0/2")
"""Options of a job that is due every other second."""


class Service:
    """One process of ``holdfast service run``; ready when made."""

    def __init__(self, house: Installation) -> None:
        self._log = house.home / "service.log"
        with (
            tempfile.TemporaryDirectory(prefix="hf") as place,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        ):
            told.bind(f"{place}/told")
            environment = {**house.environment, "NOTIFY_SOCKET": f"{place}/told"}
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    house.command("service", "run"), stdin=subprocess.DEVNULL, stderr=log, env=environment
                )
            ended = os.pidfd_open(self.process.pid)
            ends: list[socket.socket | int] = [told, ended]
            woken, _, _ = select.select(ends, [], [], START_TIMEOUT_S)
            os.close(ended)
            if told not in woken:
                self.kill()
                raise AssertionError(self.log())
            assert b"READY=1" in told.recv(1000)

    def log(self) -> str:
        """What all services of the installation have told."""
        return self._log.read_text()

    def wait(self, seconds: float) -> None:
        """Return after so long, or at once when it has ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """SIGTERM; it must end by itself, and well."""
        if self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(STOP_TIMEOUT_S) == 0, self.log()


@contextlib.contextmanager
def service(house: Installation) -> Iterator[Service]:
    """A service that runs, and is stopped at the end."""
    made = Service(house)
    try:
        yield made
    finally:
        made.stop()


def nursery(house: Installation, of: Service) -> int:
    """The process that the service's commands are forked from, once they may be asked of it."""

    def listens() -> int:
        with contextlib.suppress(OSError), door.connect(house.home / "manager"):
            return next(iter(children(of.process.pid, "holdfast_manager.nursery.template")), 0)
        return 0

    return int(wait_until(listens, "a nursery of commands"))


@contextlib.contextmanager
def catalogue(house: Installation) -> Iterator[Catalog]:
    """The installation's catalogue, looked at from here: sooner done than by commands."""
    settings = ManagerSettings.load(house.manager_config)
    with Catalog.open(msgspec.structs.replace(settings, data_dir=str(house.home / "manager"))) as opened:
        yield opened


def vm(house: Installation, name: str, size_mib: int = 2) -> Path:
    """A VM with one disk of random data."""
    disk = house.vms / name / "disk.raw"
    disk.parent.mkdir()
    disk.write_bytes(random.Random(name).randbytes(size_mib << 20))
    return disk


def sessions(catalog: Catalog, job: str, *results: SessionResult) -> Sequence[SessionEntry]:
    """Those of a job with one of these results (any), the oldest first."""
    found = catalog.sessions.list(job=job, limit=1000)[::-1]
    return [each for each in found if not results or each.result in results]


def done(
    catalog: Catalog, job: str, count: int, result: SessionResult = SessionResult.SUCCESS
) -> Sequence[SessionEntry]:
    """So many sessions of a job that have ended so, as soon as there are."""
    wait_until(lambda: len(sessions(catalog, job, result)) >= count, f"{count} sessions of {job}: {result}")
    return sessions(catalog, job, result)


def one_more(catalog: Catalog, job: str) -> None:
    """Wait until one more session of a job has been started."""
    before = len(sessions(catalog, job))
    wait_until(lambda: len(sessions(catalog, job)) > before, "a start")


def quiet(house: Installation, catalog: Catalog, *jobs: str) -> None:
    """Switch jobs off, and wait for the end of what runs."""
    for job in jobs:
        house.holdfast("job", "disable", job)
    wait_until(lambda: not (catalog.sessions.reap_dead() or catalog.sessions.living()), "the end of all sessions")
