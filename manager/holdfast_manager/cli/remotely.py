"""A command that is typed here for a manager on another host: sent there, seen through, with its streams and files."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast_agent.channel.request_client import PeerLost
from holdfast_agent.errors import AlreadyExists, ConnectionLost, HoldfastError, UsageError
from holdfast_agent.wire.messages import Push
from holdfast_manager.api import contexts
from holdfast_manager.api.client import ApiClient
from holdfast_manager.api.messages import (
    CHUNK_BYTES,
    FILES_BYTES,
    SETTINGS,
    WINDOW_BYTES,
    CommandEnded,
    CommandStarted,
    FileMade,
    GiveInput,
    InterruptCommand,
    Output,
    ResizeTerminal,
    StartCommand,
    Terminal,
    TookOutput,
)
from holdfast_manager.rights.commands import Rule

from .app import App
from .following import interrupts

_LOOK_S = 0.1
_FOREVER_S = 1e8


def run_remotely(app: App, manager: str, path: tuple[str, ...], rule: Rule) -> int:
    """Run the command at ``manager`` as it would run here; returns its exit code.

    Ctrl-C is passed on. Raises ``UsageError`` for commands that stay where they are, ``Unreachable``,
    ``ConnectionLost`` when the line breaks (sessions go on), and what the service refuses.
    """
    if rule.stays:
        raise UsageError(reason=f"{' '.join(path)} cannot be sent to a manager: {rule.stays}")
    if app.config is not None:
        raise UsageError(reason="--config is for the manager here; the one at --manager has its own")
    context = contexts.load(manager)
    files = {name: _read(name) for name, makes in app.named_files.items() if not makes}
    made = {name for name, makes in app.named_files.items() if makes}
    for name in made:
        if Path(name).exists() and not rule.replaces:
            raise AlreadyExists(kind="file", name=name)
    inbox: queue.SimpleQueue[Push | PeerLost] = queue.SimpleQueue()
    terminal = _terminal(rule)
    with ApiClient(context, inbox.put) as client:
        started = client.call(StartCommand(arguments=app.arguments, files=files, terminal=terminal))
        if not isinstance(started, CommandStarted):
            raise ConnectionLost(peer=client.endpoint, reason=f"it answered a command by {type(started).__name__}")
        with _raw(terminal.interactive):
            _begin_input(client, started.command, rule)
            return _Remote(client, started.command, made).follow(inbox)


class _Remote:
    """A command that runs elsewhere, seen through from here. One thread."""

    def __init__(self, client: ApiClient, number: int, made: set[str]) -> None:
        self._client = client
        self._number = number
        self._made = made
        self._taken = 0
        self._halves: dict[str, Path] = {}

    def follow(self, inbox: queue.SimpleQueue[Push | PeerLost]) -> int:
        """Until it has ended; returns its exit code."""
        passed = 0
        try:
            with interrupts() as interrupt, _resizes() as resized:
                while True:
                    with suppress(queue.Empty):
                        code = self._take(inbox.get(timeout=_LOOK_S))
                        if code is not None:
                            return code
                    if interrupt.count > passed:
                        passed = interrupt.count
                        self._client.call(InterruptCommand(command=self._number))
                    if resized.is_set():
                        resized.clear()
                        size = shutil.get_terminal_size()
                        self._client.call(ResizeTerminal(command=self._number, columns=size.columns, lines=size.lines))
        finally:
            for half in self._halves.values():
                half.unlink(missing_ok=True)

    def _take(self, push: Push | PeerLost) -> int | None:
        if isinstance(push, CommandEnded):
            return push.code
        if isinstance(push, PeerLost):
            raise ConnectionLost(
                peer=push.peer, reason=f"{push.error.fields['reason']}; a session that it started goes on"
            )
        if isinstance(push, Output):
            _write(push.stream, push.data)
            self._took(len(push.data))
        elif isinstance(push, FileMade):
            self._keep(push)
            self._took(len(push.data))
        return None

    def _took(self, length_bytes: int) -> None:
        """Tell it now and then, so that it never stands still for us."""
        self._taken += length_bytes
        if self._taken >= WINDOW_BYTES // 4:
            self._client.call(TookOutput(command=self._number, length_bytes=self._taken))
            self._taken = 0

    def _keep(self, part: FileMade) -> None:
        """A file appears under its name when it is whole; only where the user said."""
        if part.name not in self._made:
            raise ConnectionLost(
                peer=self._client.endpoint, reason=f"it sent a file that nobody asked for: {part.name}"
            )
        target = Path(part.name)
        half = self._halves.setdefault(part.name, target.with_name(f".{target.name}.{os.getpid()}"))
        try:
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                file.write(part.data)
            if part.last:
                half.replace(target)
                del self._halves[part.name]
        except OSError as error:
            raise UsageError(reason=f"{target} cannot be written: {error.strerror}") from error


def _terminal(rule: Rule) -> Terminal:
    """What is a terminal here. Standard input is one only for commands that ask: others never read it."""
    size = shutil.get_terminal_size()
    whole = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    return Terminal(
        stdin=rule.asks and whole,
        stdout=sys.stdout.isatty(),
        stderr=sys.stderr.isatty(),
        columns=max(1, min(10_000, size.columns)),
        lines=max(1, min(10_000, size.lines)),
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
    )


def _begin_input(client: ApiClient, number: int, rule: Rule) -> None:
    """Standard input follows in a thread, for commands that read it; others must leave it to whoever else does."""
    if not rule.asks or (sys.stdin.isatty() and not sys.stdout.isatty()):
        client.call(GiveInput(command=number, data=b"", end=True))
        return

    def pump() -> None:
        with suppress(HoldfastError, OSError):
            while True:
                data = os.read(sys.stdin.fileno(), CHUNK_BYTES)
                client.call(GiveInput(command=number, data=data, end=not data), _FOREVER_S)
                if not data:
                    return

    threading.Thread(target=pump, name="input", daemon=True).start()


def _read(name: str) -> bytes:
    try:
        with Path(name).expanduser().open("rb") as file:
            content = file.read(FILES_BYTES + 1)
    except OSError as error:
        raise UsageError(reason=f"{name} cannot be read: {error.strerror}") from error
    if len(content) > FILES_BYTES:
        raise UsageError(reason=f"{name} is too large to go with a command (at most {FILES_BYTES >> 20} MiB)")
    return content


def _write(stream: int, data: bytes) -> None:
    """As it came: what the command wrote there is what is written here."""
    left = memoryview(data)
    while left:
        left = left[os.write(stream, left) :]


@contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Every key goes to the command, whose own terminal does what this one would have done."""
    if not wanted:
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _resizes() -> Iterator[threading.Event]:
    """Set when the terminal has another size."""
    resized = threading.Event()
    before = signal.signal(signal.SIGWINCH, lambda number, frame: resized.set())
    try:
        yield resized
    finally:
        signal.signal(signal.SIGWINCH, before)
