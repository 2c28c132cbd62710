"""What an examination finds."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from holdfast_agent.errors import HoldfastError


class Level(StrEnum):
    """``MISSING``: not set up yet, and nothing works without it. ``PROBLEM``: backups fail, or will."""

    GOOD = "good"
    MISSING = "missing"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``subject``: such as "agent local"; ``advice``: what to do, if anything."""

    subject: str
    level: Level
    text: str
    advice: str = ""


def good(subject: str, text: str) -> Finding:
    return Finding(subject, Level.GOOD, text)


def missing(subject: str, text: str, advice: str) -> Finding:
    return Finding(subject, Level.MISSING, text, advice)


def warning(subject: str, text: str, advice: str) -> Finding:
    return Finding(subject, Level.WARNING, text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    return Finding(subject, Level.PROBLEM, text, advice)


def of_error(subject: str, error: HoldfastError, advice: str = "") -> Finding:
    """A problem in the words of ``error``; ``advice`` stands in where the error has none."""
    return Finding(subject, Level.PROBLEM, error.text, error.advice or advice)
