"""The command `holdfast` as it begins: it asks the nursery for the command, or loads all that is needed itself.

This module and what it imports are loaded in a hundredth of a second, and must stay so.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from holdfast_manager.places import config_file, data_directory

from . import door

QUICK: Final = frozenset(
    {
        ("agent", "list"),
        ("job", "list"),
        ("job", "retry"),
        ("job", "run"),
        ("job", "show"),
        ("point", "list"),
        ("point", "show"),
        ("repository", "list"),
        ("session", "follow"),
        ("session", "list"),
        ("session", "show"),
    }
)
"""Commands that the nursery runs: those that are typed often, ask nothing, and name no files. A test sees to that."""
_ELSEWHERE = ("--config", "--manager")


def main() -> None:
    """Called by the console script `holdfast`."""
    arguments = sys.argv[1:]
    code = _asked(arguments) if _is_quick(arguments) else None
    if code is not None:
        os._exit(code)  # nothing of ours is to be written or cleaned up
    from holdfast_manager.cli.main import main as load_and_run

    load_and_run()


def _is_quick(arguments: Sequence[str]) -> bool:
    encodings = {getattr(stream, "encoding", None) for stream in (sys.stdin, sys.stdout, sys.stderr)}
    return (
        tuple(arguments[:2]) in QUICK
        and not any(argument.startswith(_ELSEWHERE) for argument in arguments)
        and not os.environ.get("HOLDFAST_MANAGER")
        and not door.is_off(os.environ)
        and encodings == {"utf-8"}  # as the nursery writes; None where a stream is closed
    )


def _asked(arguments: Sequence[str]) -> int | None:
    """The exit code of the command that the nursery ran; None: it has run none."""
    try:
        with door.connect(data_directory(_configured())) as nursery:
            _, command = door.ask(nursery, door.Asked.from_here(door.COMMAND, arguments, os.environ))
            with _signals_passed_on(command) as passed:
                door.go(nursery, (0, 1, 2))
                nursery.settimeout(None)
                code = _exit_code(nursery)
    except OSError:
        return None
    except KeyboardInterrupt:  # nothing has begun yet
        return door.INTERRUPTED
    return code if code is not None else _end_as(passed)


def _exit_code(nursery: socket.socket) -> int | None:
    """None: the process ended without a word. From here on nothing may lead to the command being run again."""
    try:
        told = nursery.recv(1)
    except OSError:
        told = b""
    return told[0] if told else None


def _configured() -> str:
    """The data directory that the configuration names; "" where it names none, or cannot be read."""
    try:
        place = config_file()
        text = place.read_text("utf-8") if place is not None else ""
        if "data_dir" not in text:
            return ""
        import tomllib  # which takes half as long to load as all the rest

        return str(tomllib.loads(text).get("data_dir", ""))
    except (OSError, ValueError):
        return ""


@contextmanager
def _signals_passed_on(command: int) -> Iterator[list[int]]:
    """Within this, what would end or stop us ends or stops the command; what was passed on.

    What this process ignores (nohup, a shell's background) it goes on ignoring, and nobody passes it on.
    """
    passed: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        passed.append(number)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(command, signal.Signals(number))

    def stop(_number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(command, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the shell has us go on
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(command, signal.SIGCONT)

    handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = dict.fromkeys(door.PASSED_ON, pass_on)
    handlers[signal.SIGTSTP] = stop
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield passed
    finally:
        for number in handlers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        os.close(command)


def _end_as(passed: Sequence[int]) -> int:
    """The command ended without an exit code: by the signal that we passed on, or somebody has killed it."""
    for number in passed[-1:]:
        os.kill(os.getpid(), number)
    sys.stderr.write("The process of this command was killed; a session that it started goes on by itself\n")
    sys.stderr.flush()
    return 1
