"""What is said on the API, and the version of it. See docs/api-protocol.md, which explains it.

Shared with the control channel of agents are frames, correlations, heartbeats, ``Done`` and ``Failure``.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from holdfast_agent.wire.codec import decoder_of
from holdfast_agent.wire.messages import Done, Failure, Heartbeat, Push, Reply, Request

API_MAJOR: Final = 1
API_MINOR: Final = 0
"""As for the control channel: another major version is refused at ``Greet``; minor ones only add."""

CHUNK_BYTES: Final = 64 << 10
"""Of a stream or a file in one message, at most."""
WINDOW_BYTES: Final = 256 << 10
"""What a command may say before the client has told that it has taken it."""
FILES_BYTES: Final = 4 << 20
"""All files that come with a command, together."""

_Text = Annotated[str, msgspec.Meta(max_length=CHUNK_BYTES)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=WINDOW_BYTES)]
_Setting = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:+-]{0,64}$")]


class Terminal(msgspec.Struct, frozen=True, kw_only=True):
    """Where the command is typed: which of its streams are a terminal, how large that is, and the few settings of the
    environment by which programs choose colours and widths (``SETTINGS``)."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    columns: _Size = 80
    lines: _Size = 24
    settings: dict[str, _Setting] = {}

    @property
    def interactive(self) -> bool:
        """Whether somebody sits there who can answer a question."""
        return self.stdin and self.stdout and self.stderr


SETTINGS: Final = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
"""Names of variables that go along."""


class Greet(Request, frozen=True, tag=True, kw_only=True):
    """The first message of every connection."""

    major: int
    minor: int
    software: Annotated[str, msgspec.Meta(max_length=64)]


class Greeted(Reply, frozen=True, tag=True, kw_only=True):
    """``user`` and ``roles``: as whom the manager knows the peer."""

    major: int
    minor: int
    software: str
    user: str
    roles: tuple[str, ...]


class StartCommand(Request, frozen=True, tag=True, kw_only=True):
    """Run `holdfast` with these arguments. ``files``: what it reads where it was typed, by the names that stand in
    the arguments."""

    arguments: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=1024)]
    files: Annotated[dict[_Text, bytes], msgspec.Meta(max_length=16)]
    terminal: Terminal


class CommandStarted(Reply, frozen=True, tag=True, kw_only=True):
    """``command``: its number on this connection."""

    command: int


class GiveInput(Request, frozen=True, tag=True, kw_only=True):
    """More for its standard input; the reply comes when the command has taken it. ``end``: nothing follows."""

    command: int
    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES)]
    end: bool = False


class InterruptCommand(Request, frozen=True, tag=True, kw_only=True):
    """What Ctrl-C would be."""

    command: int


class ResizeTerminal(Request, frozen=True, tag=True, kw_only=True):
    """The terminal has another size now."""

    command: int
    columns: _Size
    lines: _Size


class TookOutput(Request, frozen=True, tag=True, kw_only=True):
    """So many bytes of output and files were taken; as many more may come."""

    command: int
    length_bytes: _Count


class Output(Push, frozen=True, tag=True, kw_only=True):
    """What the command wrote. ``stream``: 1 or 2, as descriptors are numbered."""

    command: int
    stream: int
    data: bytes


class FileMade(Push, frozen=True, tag=True, kw_only=True):
    """A part of a file that the command made; ``name`` as it stands in the arguments. ``last``: the file is whole."""

    command: int
    name: str
    data: bytes
    last: bool


class CommandEnded(Push, frozen=True, tag=True, kw_only=True):
    """The last thing that is told of a command. ``code``: its exit code."""

    command: int
    code: int


REQUESTS: Final[tuple[type[Request], ...]] = (
    Greet,
    Heartbeat,
    StartCommand,
    GiveInput,
    InterruptCommand,
    ResizeTerminal,
    TookOutput,
)
_SAID: Final[tuple[type[Reply | Push], ...]] = (Greeted, CommandStarted, Output, FileMade, CommandEnded, Done, Failure)

decode_request = decoder_of({kind.__name__: kind for kind in REQUESTS})
"""What a client asks."""
decode_answer = decoder_of({kind.__name__: kind for kind in _SAID})
"""What the manager says."""
