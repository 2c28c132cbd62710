"""Sizes, rates and durations, as people write and read them.

Everywhere inside Holdfast sizes are bytes (``…_bytes``), durations seconds (``…_s``); text exists at the edges only.
"""

from __future__ import annotations

import re

from holdfast_agent.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_FACTORS = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": GIB, "gib": GIB, "gb": 1000**3,
    "t": TIB, "tib": TIB, "tb": 1000**4,
}  # fmt: skip
_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NUMBER_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int) -> int:
    """Bytes of "64 MiB", "1.5G" (binary), "10 GB" (decimal) or a plain number. Raises :class:`UsageError`."""
    if isinstance(text, int):
        if text < 0:
            raise UsageError(reason=f"{text} is not a size")
        return text
    match = _NUMBER_UNIT.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(reason=f"{text!r} is not a size; write for example 64 MiB, 10 GB or 4096")
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def parse_duration(text: str | float) -> float:
    """Seconds of "90", "10 min", "1.5h", "7d". Raises :class:`UsageError`."""
    if isinstance(text, (int, float)):
        return float(text)
    match = _NUMBER_UNIT.fullmatch(text)
    factor = _SECONDS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(reason=f"{text!r} is not a duration; write for example 30 s, 10 min or 7 d")
    return float(match[1]) * factor


def format_size(size_bytes: float) -> str:
    """ "3.2 GiB": three significant digits, binary units."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 999.5 or unit == "TiB":
            break
        value /= 1024
    if unit == "B":
        return f"{int(value)} B"
    return f"{value:.2f} {unit}" if value < 9.995 else f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def format_rate(bytes_per_s: float) -> str:
    """ "512 MiB/s"."""
    return f"{format_size(bytes_per_s)}/s"


def format_duration(seconds: float) -> str:
    """ "0.42 s", "12.3 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
