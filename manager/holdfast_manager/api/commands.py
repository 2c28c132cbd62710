"""What runs for whom: the commands of all connections, within bounds."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from holdfast_agent.channel.control_server import Connection
from holdfast_agent.errors import Locked, UsageError
from holdfast_agent.wire.messages import Push
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.values import UserEntry
from holdfast_manager.settings import ManagerSettings

from .command import Order
from .messages import FILES_BYTES, SETTINGS, StartCommand
from .running import Running

OF_A_USER = 8
OF_ALL = 32
_CLOSE_S = 5.0
"""Commands at once: each is a process of some 60 MiB."""


class Commands:
    """Owned by the API's loop. Folders of commands that a killed service left are removed at the start."""

    def __init__(self, settings: ManagerSettings, config: Path | None) -> None:
        self._place = settings.home / "commands"
        shutil.rmtree(self._place, ignore_errors=True)
        self._environment = _environment(settings, config)
        self._running: dict[tuple[Connection, int], Running] = {}
        self._last = 0

    @property
    def fds(self) -> dict[int, tuple[bool, bool]]:
        """What all of them wait for: (readable, writable) of each descriptor."""
        return {fd: wish for each in self._running.values() for fd, wish in each.fds.items()}

    def start(
        self, connection: Connection, user: UserEntry, actor: Actor, request: StartCommand, push: Callable[[Push], bool]
    ) -> int:
        """Start one; returns its number. Raises ``UsageError`` or ``Locked``."""
        _check(request)
        mine = sum(each.user.name == user.name for each in self._running.values())
        if mine >= OF_A_USER or len(self._running) >= OF_ALL:
            raise Locked(what="the API", holder=f"{len(self._running)} commands, {mine} of them yours")
        folder = self._place / secrets.token_hex(16)
        folder.mkdir(mode=0o700, parents=True)
        order = Order(
            arguments=request.arguments, actor=actor, files=request.files, folder=str(folder), service=os.getpid()
        )
        settings = {name: value for name, value in request.terminal.settings.items() if name in SETTINGS}
        try:
            running = Running(
                self._last + 1, user, order, request.terminal, {**self._environment, **settings}, push
            )  # fmt: skip
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise Locked(what="the manager's host", holder=f"other work ({error.strerror})") from error
        self._last += 1
        self._running[connection, self._last] = running
        return self._last

    def of(self, connection: Connection, number: int) -> Running | None:
        """One of this connection's; None: it has ended, or is none of its own."""
        return self._running.get((connection, number))

    def ready(self, fd: int) -> None:
        """A descriptor of one of them is ready."""
        for running in list(self._running.values()):
            if fd in running.fds:
                running.ready(fd)
        self._forget_done()

    def tick(self, known: Callable[[str], UserEntry | None]) -> None:
        """Each second. Whoever is not the same user as when the command began, in name and roles, is cut off."""
        for (connection, _), running in list(self._running.items()):
            user = known(connection.key)
            if user is None or (user.name, user.roles) != (running.user.name, running.user.roles):
                running.hang_up()
            running.tick()
        self._forget_done()

    def hang_up(self, connection: Connection) -> None:
        """The connection has gone."""
        for (owner, _), running in list(self._running.items()):
            if owner == connection:
                running.hang_up()
        self._forget_done()

    def close(self) -> None:
        """The service ends: so do they, as if their terminals were closed. Sessions go on by themselves."""
        for running in self._running.values():
            running.hang_up()
        give_up = time.monotonic() + _CLOSE_S
        for running in self._running.values():
            running.wait_end(max(0.0, give_up - time.monotonic()))

    def _forget_done(self) -> None:
        self._running = {key: each for key, each in self._running.items() if not each.done}


def _check(request: StartCommand) -> None:
    if any("\0" in text for text in (*request.arguments, *request.files)):
        raise UsageError(reason="an argument holds a NUL character")
    if sum(map(len, request.files.values())) > FILES_BYTES:
        raise UsageError(reason=f"the files of a command have {FILES_BYTES >> 20} MiB at most, together")


def _environment(settings: ManagerSettings, config: Path | None) -> Mapping[str, str]:
    """The service's own, without what concerns the service alone, and without what comes with each command."""
    own = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "HOLDFAST_MANAGER", "SUDO_USER", *SETTINGS}
    found = {name: value for name, value in os.environ.items() if name not in own}
    found["HOLDFAST_HOME"] = str(settings.home)
    if config is not None:
        found["HOLDFAST_CONFIG"] = str(config.resolve())
    return found
