"""How results leave: text for people or one JSON document on stdout; notes and errors on stderr."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import click
import msgspec

from holdfast_agent.errors import ErrorRecord, HoldfastError

# Control characters and those that turn the direction of writing, but for lines, tabs and colours.
_STEERS = re.compile(
    "\x1b(?!\\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


class ResultNotWritten(HoldfastError):
    """Where stdout goes takes no more; the command itself has done its work."""

    code = "result_not_written"
    message = "the result could not be written: {reason}"
    action = "What the command does is done; look at it by a command that shows it"


def styled(text: str, **style: Any) -> str:
    """As :func:`click.style`, unless whoever reads wants no colours (https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def tame(text: str) -> str:
    """``text`` as a terminal is to have it: guests and other hosts have put words into it, and none may steer it."""
    return _STEERS.sub("?", text)


class Output(ABC):
    """One command's results. ``quiet`` drops notes; results and errors are always told."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    @abstractmethod
    def result(self, document: Any, text: Callable[[], str] | str) -> None:
        """The command's one result: ``document`` is what JSON shows, ``text`` (or what makes it) what people read."""

    @abstractmethod
    def error(self, record: ErrorRecord) -> int:
        """An error that ended the command; returns the exit code that it asks for."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Something that people may like to know, and that is no result."""

    @abstractmethod
    def warning(self, text: str) -> None:
        """Something that people ought to know."""


class TextOutput(Output):
    def result(self, document: Any, text: Callable[[], str] | str) -> None:
        told = text if isinstance(text, str) else text()
        if told:  # people have read the parts of a whole already
            _write(tame(told))

    def error(self, record: ErrorRecord) -> int:
        click.echo(f"{styled('Error:', fg='red', bold=True)} {tame(record.message)}", err=True)
        if record.action:
            click.echo(f"  {tame(record.action)}", err=True)
        return record.exit_code

    def note(self, text: str) -> None:
        if not self.quiet:
            click.echo(tame(text), err=True)

    def warning(self, text: str) -> None:
        click.echo(f"{styled('Warning:', fg='yellow', bold=True)} {tame(text)}", err=True)


class JsonOutput(Output):
    def result(self, document: Any, text: Callable[[], str] | str) -> None:
        _write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())

    def error(self, record: ErrorRecord) -> int:
        click.echo(msgspec.json.format(msgspec.json.encode({"error": error_document(record)}), indent=2))
        return record.exit_code

    def note(self, text: str) -> None:
        """Programs read results; notes would only be in the way."""

    def warning(self, text: str) -> None:
        click.echo(f"Warning: {tame(text)}", err=True)


class Collected(Output):
    """Keeps the documents of what is a part of one command; people are told the parts as they come."""

    def __init__(self, beneath: Output) -> None:
        super().__init__(beneath.quiet)
        self.documents: list[Any] = []
        self._beneath: Output = beneath._beneath if isinstance(beneath, Collected) else beneath
        self._people = isinstance(self._beneath, TextOutput)

    def result(self, document: Any, text: Callable[[], str] | str) -> None:
        self.documents.append(document)
        if self._people:
            self._beneath.result(document, text)

    def error(self, record: ErrorRecord) -> int:
        """Of a part, beside which others may go well: programs find it in the document of the whole."""
        return self._beneath.error(record) if self._people else record.exit_code

    def note(self, text: str) -> None:
        self._beneath.note(text)

    def warning(self, text: str) -> None:
        self._beneath.warning(text)


def error_document(record: ErrorRecord) -> dict[str, Any]:
    """An error as programs read it."""
    return {
        "code": record.code,
        "message": record.message,
        "action": record.action,
        "retryable": record.retryable,
        "exit_code": record.exit_code,
    }


def _write(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:
        raise  # the reader wants no more: no error worth a word
    except OSError as error:
        raise ResultNotWritten(reason=error.strerror or str(error)) from error
