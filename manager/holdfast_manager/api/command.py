"""The process of a command that was typed on another host: `holdfast` itself, with the user's rights and terminal.

Started by the service as ``python -m holdfast_manager.api.command DESCRIPTOR``; what it is to do it reads from there.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
from contextlib import suppress
from pathlib import Path

import msgspec

from holdfast_agent.prctl import end_with_parent
from holdfast_agent.starting import end
from holdfast_manager.cli.app import App
from holdfast_manager.cli.main import run
from holdfast_manager.rights.actor import Actor

from .carrying import Carrier


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the service hands over, by a descriptor: arguments and files are nobody else's business."""

    arguments: tuple[str, ...]
    actor: Actor
    files: dict[str, bytes]
    folder: str
    service: int
    """The service's process id."""


def main() -> None:
    """Run the command; its exit code is this process's."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        order = msgspec.msgpack.decode(file.read(), type=Order)
    _end_with(order.service)
    _take_terminal()
    app = App(order.arguments, order.actor, Carrier(Path(order.folder), order.files))
    end(run(order.arguments, app))


def _end_with(service: int) -> None:
    """When the service is killed, nobody is left who could tell this command that its user has gone.

    What hangs up ends it whatever the service was started with: under nohup it would ignore that, and stay for good.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    end_with_parent(service, signal.SIGHUP)


def _take_terminal() -> None:
    """Make the terminal ours, so that Ctrl-C reaches this process. It leads a session of its own already."""
    for descriptor in (0, 2, 1):
        if os.isatty(descriptor):
            with suppress(OSError):
                fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
            return


if __name__ == "__main__":
    main()
