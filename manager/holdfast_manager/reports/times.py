"""Moments as people read them: local time, without a zone."""

from __future__ import annotations

from datetime import datetime


def moment(unix: float | None) -> str:
    """ "2026-11-23 15:01:02", or "-"."""
    return "-" if unix is None else datetime.fromtimestamp(unix).strftime("%Y-%m-%d %H:%M:%S")


def clock(unix: float | None) -> str:
    """ "15:01:02", or "-"."""
    return "-" if unix is None else datetime.fromtimestamp(unix).strftime("%H:%M:%S")
