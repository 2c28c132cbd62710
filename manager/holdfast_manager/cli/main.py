"""The entry point: the one place where results and errors become exit codes."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import click

from holdfast_agent.errors import Cancelled, ErrorRecord, HoldfastError, InternalError, UsageError
from holdfast_agent.starting import end

from .app import App, OutputForm
from .root import root

EXIT_CANCELLED = 130
RARELY = 50_000
"""Objects between two looks for garbage: a command loads its modules and ends, and most of what it makes stays."""
EXIT_PIPE_CLOSED = 141  # what the shell reports for a program that SIGPIPE ended


def main() -> None:
    """Called where the command is not forked from the nursery: see :mod:`holdfast_manager.nursery.asking`."""
    gc.set_threshold(RARELY)
    end(run(sys.argv[1:]))


def run(arguments: Sequence[str], app: App | None = None) -> int:
    """Run one command; returns its exit code. Prints every error itself, as text on stderr or JSON on stdout.

    ``app``: of a command that runs for somebody on another host.
    """
    app = app or App(arguments)
    try:
        code = root.main(list(arguments), prog_name="holdfast", standalone_mode=False, obj=app)
        sys.stdout.flush()
    except click.UsageError as error:
        return _usage(app, error, arguments)
    except click.Abort:
        return app.out.error(Cancelled(reason="interrupted at the keyboard").to_record())
    except KeyboardInterrupt:
        return app.out.error(Cancelled(reason="interrupted at the keyboard").to_record())
    except HoldfastError as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=error)
        return app.out.error(error.to_record())
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - process boundary: users get a typed error, developers the log
        return app.out.error(_unexpected(app, error))
    finally:
        app.close()
    return code if isinstance(code, int) else 0


def _usage(app: App, error: click.UsageError, arguments: Sequence[str]) -> int:
    """Errors of the command line itself; found before options are read, so that JSON is looked for by hand."""
    if "--output=json" in arguments or ("--output", "json") in pairwise(arguments):
        app.output = OutputForm.JSON
    if app.output is OutputForm.JSON:
        return app.out.error(UsageError(reason=error.format_message()).to_record())
    error.show()
    return error.exit_code


def _unexpected(app: App, error: Exception) -> ErrorRecord:
    where = " ".join(Path(sys.argv[0]).name.split()) or "holdfast"
    record = InternalError(kind=type(error).__name__, where=where, reason=str(error)).to_record()
    story = "".join(traceback.format_exception(error))
    place = _write_story(app, story)
    if place is None:
        sys.stderr.write(story)
        return record
    action = f"This is a defect: please report it with the log {place}"
    return ErrorRecord(record.code, record.message, record.fields, record.retryable, action, record.exit_code)


def _write_story(app: App, story: str) -> Path | None:
    """Keep a traceback beside the logs of sessions; None where that is not possible."""
    try:
        directory = app.settings.log_dir
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = directory / f"cli-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
            file.write(story)
    except (OSError, HoldfastError):
        return None
    return place


def _silence_stdout() -> None:
    """The reader has gone: without this the interpreter complains once more when it flushes at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
