"""Errors that no single part owns; each family fixes an exit code of the command line."""

from __future__ import annotations

from .base import HoldfastError


class UsageError(HoldfastError):
    """The command or request makes no sense as given."""

    code = "usage"
    message = "{reason}"
    exit_code = 2


class NotFound(HoldfastError):
    """Something named by the user does not exist. ``kind`` is a noun such as "job"."""

    code = "not_found"
    message = "there is no {kind} named {name!r}"
    action = "{advice}"
    exit_code = 10

    def __init__(self, *, kind: str, name: str, advice: str = "") -> None:
        super().__init__(kind=kind, name=name, advice=advice)


class AlreadyExists(HoldfastError):
    """Something with that name exists already."""

    code = "already_exists"
    message = "the {kind} {name!r} exists already"
    action = "Choose another name, or remove the existing one first"
    exit_code = 2


class Locked(HoldfastError):
    """Somebody else works on it now."""

    code = "locked"
    message = "{what} is in use by {holder}"
    action = "Wait until it is free, or stop the other work"
    retryable = True
    exit_code = 11


class OutsideWindow(HoldfastError):
    """A job was to start in its backup windows only, and none is open."""

    code = "outside_window"
    message = "the job {job} starts within its windows only ({windows}), and none of them is open"
    action = "Wait for one, or run it all the same: `holdfast job run {job}`"
    exit_code = 20


class Denied(HoldfastError):
    """The right to do this is missing."""

    code = "denied"
    message = "{reason}"
    exit_code = 13


class Cancelled(HoldfastError):
    """Stopped because somebody asked for it; never retried."""

    code = "cancelled"
    message = "cancelled: {reason}"
    exit_code = 130


class ExtraMissing(HoldfastError):
    """A Python package that only this task needs is not installed on that host."""

    code = "extra_missing"
    message = "what {purpose} needs is not installed on {host}"
    action = "Install it there: pip install 'holdfast[{extra}]'"


class ToolMissing(HoldfastError):
    """A program of the operating system that this task needs is not installed on that host."""

    code = "tool_missing"
    message = "{tool} is not installed on {host}"
    action = "Install it there (Debian and Ubuntu: apt install {package})"
