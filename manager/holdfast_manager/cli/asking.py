"""Secrets from people: typed at a prompt, read from standard input, or from a file; never from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from holdfast_agent.errors import UsageError
from holdfast_agent.sealing.paper import LINES
from holdfast_manager.enrolment.secret_files import read_env_file, read_secret_file, read_secret_text

from .app import App

_MAX_CHARACTERS = 1 << 16
LEAST_PASSPHRASE = 8
"""Characters. A guess costs half a second and 256 MiB, so that even eight random ones hold for long."""


def new_passphrase(app: App, file: Path | None) -> str:
    """A passphrase to protect something new with: typed twice, or read. Raises :class:`UsageError` for a short one."""
    if file is None and app.interactive:
        passphrase: str = click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    else:
        passphrase = _given(file, "the passphrase", "--passphrase-file")
    if len(passphrase) < LEAST_PASSPHRASE:
        raise UsageError(reason=f"a passphrase has at least {LEAST_PASSPHRASE} characters")
    return passphrase


def new_password(app: App, file: Path | None) -> str:
    """A password for a user: typed twice, or read. How long it must be is the catalogue's to say."""
    if file is None and app.interactive:
        password: str = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
        return password
    return _given(file, "the password", "--password-file")


def existing_passphrase(app: App, file: Path | None, name: str) -> str:
    """The passphrase of something that exists."""
    return one_secret(app, file, f"Passphrase of {name}", "--passphrase-file")


def one_secret(app: App, file: Path | None, what: str, option: str) -> str:
    """A secret that exists, on one line: typed, or read. ``what`` is asked for; ``option`` names the file."""
    if file is None and app.interactive:
        secret: str = click.prompt(what, hide_input=True, err=True)
        return secret
    return _given(file, what, option)


def paper_key(app: App, file: Path | None) -> str:
    """The text of a paper key: from a file of its owner's, typed line by line, or all of standard input."""
    if file is not None:
        return read_secret_text(file)
    if app.interactive:
        lines = [click.prompt(f"Line {number} of {LINES}", err=True) for number in range(1, LINES + 1)]
        return "\n".join(lines)
    return sys.stdin.read(_MAX_CHARACTERS)


def credentials(app: App, keys: Sequence[str], file: Path | None) -> dict[str, str]:
    """Values of the credentials ``keys``, and whatever stands in ``file`` (lines KEY=VALUE).

    Keys that the file does not have are asked for; without a terminal each is a line of standard input, in order.
    """
    found = read_env_file(file) if file is not None else {}
    missing = [key for key in dict.fromkeys(keys) if key not in found]
    if missing and app.interactive:
        return found | {key: click.prompt(key, hide_input=True, err=True) for key in missing}
    return found | {key: _line_of_stdin(key, "--secret-file") for key in missing}


def _given(file: Path | None, what: str, option: str) -> str:
    if file is not None:
        return read_secret_file(file)
    if sys.stdin.isatty():
        raise UsageError(reason=f"nobody can be asked for {what} here; give {option}, or pipe it in")
    return _line_of_stdin(what, option)


def _line_of_stdin(what: str, option: str) -> str:
    line = sys.stdin.readline(_MAX_CHARACTERS).rstrip("\r\n")
    if not line:
        told = f"standard input ended before {what}: one secret a line is read from there"
        raise UsageError(reason=f"{told}; or give a file by {option}")
    return line
