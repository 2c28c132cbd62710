"""The root of all Holdfast errors, and the table that brings an error back from the wire as its own class.

Every error says three things: what happened (``message``, a template over named fields), what to do about
it (``action``), and how a program should treat it (``code``, ``retryable``, ``exit_code``).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

FieldValue = str | int | float | bool | None

_classes_by_code: dict[str, type[HoldfastError]] = {}


class ErrorRecord(msgspec.Struct, frozen=True):
    """An error as it travels between processes and into the catalogue: data only, never a pickled object."""

    code: str
    message: str
    fields: dict[str, FieldValue]
    retryable: bool
    action: str = ""
    exit_code: int = 1


class HoldfastError(Exception):
    """Base of every error that a user may see.

    Subclasses set the class variables; ``message`` and ``action`` are ``str.format`` templates over the
    keyword arguments of the constructor, which stay available as ``error.fields``.
    """

    code: ClassVar[str] = "error"
    message: ClassVar[str] = "{reason}"
    action: ClassVar[str] = ""
    retryable: bool = False
    exit_code: int = 1

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            return  # an abstract family keeps its parent's code
        other = _classes_by_code.get(cls.code)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise TypeError(f"error code {cls.code!r} is taken by {other.__qualname__}")
        _classes_by_code[cls.code] = cls

    def __init__(self, **fields: FieldValue) -> None:
        self.fields: dict[str, FieldValue] = fields
        self.text = self.message.format(**fields)
        self.advice = self.action.format(**fields)
        super().__init__(self.text)

    def __str__(self) -> str:
        return f"{self.text}. {self.advice}" if self.advice else self.text

    def __reduce__(self) -> str:
        raise TypeError("errors cross processes as ErrorRecord, never by pickle")

    def to_record(self) -> ErrorRecord:
        """This error as data for a message, a log line or the catalogue."""
        return ErrorRecord(self.code, self.text, self.fields, self.retryable, self.advice, self.exit_code)


class RemoteError(HoldfastError):
    """An error of a class that this side does not know (a newer peer); keeps the peer's words and judgement."""

    code = "remote_error"


class InternalError(HoldfastError):
    """A defect of Holdfast itself; raised only at process, task and plugin boundaries."""

    code = "internal_error"
    message = "unexpected {kind} in {where}: {reason}"
    action = "This is a defect: please report it with the log of this session"


def from_record(record: ErrorRecord) -> HoldfastError:
    """Rebuild an error received from a peer.

    Returns an instance of the class with that code where this side knows one, so that ``except`` works across
    processes; else a :class:`RemoteError` that keeps the peer's text, ``retryable`` and ``exit_code``.
    """
    cls = _classes_by_code.get(record.code, RemoteError)
    error = cls.__new__(cls)
    Exception.__init__(error, record.message)
    error.fields = dict(record.fields)
    error.text = record.message
    error.advice = record.action
    error.retryable = record.retryable
    error.exit_code = record.exit_code
    return error
