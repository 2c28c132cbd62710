"""Contents of disks and files compared: what differs is told by its place.

A bare ``assert a == b`` of large byte strings has pytest show both and their difference line by line, which takes
minutes as soon as it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_SHOWN_BYTES = 16
_STEP = 1 << 16


def assert_same(found: object, expected: object, why: str = "contents differ") -> None:
    """Fail unless both are equal. Bytes may lie in mappings, lists and tuples; anything else is compared as it is."""
    difference = _difference(found, expected)
    if difference is not None:
        raise AssertionError(f"{why}: {difference}")


def _difference(found: object, expected: object) -> str | None:
    if isinstance(found, bytes | bytearray | memoryview) and isinstance(expected, bytes | bytearray | memoryview):
        return _first_place(bytes(found), bytes(expected))
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        if found.keys() != expected.keys():
            return f"it holds {sorted(map(str, found))} instead of {sorted(map(str, expected))}"
        return _first_of((f"[{key!s}]", found[key], expected[key]) for key in found)
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        if len(found) != len(expected):
            return f"{len(found)} parts instead of {len(expected)}"
        return _first_of((f"[{number}]", *pair) for number, pair in enumerate(zip(found, expected, strict=True)))
    return None if found == expected else f"{found!r:.300} instead of {expected!r:.300}"


def _first_of(parts: Iterable[tuple[str, object, object]]) -> str | None:
    for name, found, expected in parts:
        difference = _difference(found, expected)
        if difference is not None:
            return f"{name} {difference}"
    return None


def _first_place(found: bytes, expected: bytes) -> str | None:
    if found == expected:
        return None
    shorter = min(len(found), len(expected))
    start = next(
        (at for at in range(0, shorter, _STEP) if found[at : at + _STEP] != expected[at : at + _STEP]), shorter
    )
    place = next((at for at in range(start, min(start + _STEP, shorter)) if found[at] != expected[at]), shorter)
    shown = [data[place : place + _SHOWN_BYTES].hex() or "nothing" for data in (found, expected)]
    lengths = f"{len(found)} bytes" if len(found) == len(expected) else f"{len(found)} bytes, not {len(expected)}"
    return f"at byte {place} {shown[0]} instead of {shown[1]} ({lengths})"
