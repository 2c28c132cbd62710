"""Logs of the manager's processes: lines for people, or JSON for programs that collect logs."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from .settings import LogFormat

FIELDS = ("session", "task", "job", "vm", "disk", "step", "event")
"""What a line of JSON has besides time, level, logger and message, where it is about one of them; from ``extra``."""


class TextFormatter(logging.Formatter):
    """One line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object a line. ``always``: fields of every line of this process."""

    def __init__(self, always: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._always = always or {}

    def format(self, record: logging.LogRecord) -> str:
        told = {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **told,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def formatter(form: LogFormat, session: int | None = None) -> logging.Formatter:
    """The formatter of a process; ``session``: the one that it runs."""
    if form is LogFormat.TEXT:
        return TextFormatter()
    return JsonFormatter({} if session is None else {"session": session})


def start_logging(level: str, form: LogFormat, session: int | None = None) -> None:
    """Send the logs of this process to stderr. Called once, at its start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form, session))
    logging.basicConfig(level=level.upper(), handlers=[handler])
