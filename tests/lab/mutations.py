"""Bytes as hostile or broken peers send them: arbitrary ones, and valid ones with flips, cuts, swaps, huge numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

_PLACES = st.integers(0, 1 << 16)
"""Part of the way through the data, so that one edit fits samples of all lengths."""

_NUMBERS = st.sampled_from(
    [0, 1, 2, 0x7F, 0xFF, 0xFFFF, *(1 << n for n in (20, 24, 31, 40, 63)), *((1 << n) - 1 for n in (31, 32, 63, 64))]
)
_NESTED = [b"[" * 100_000, b'{"a":' * 20_000, b"\x91" * 100_000, b"\x81\xa1a" * 20_000]
_HUGE = [bytes([kind, 255, 255, 255, 255]) for kind in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF)]  # lengths in msgpack
_WORDS = [
    "0", "-1", "1e999", "9" * 20, "9" * 5000, "NaN", "null", '""', "true", "[]", "{}", '"', "\\u0000", "%00", "..", "=",
    "é", "١",
]  # fmt: skip
_RAW = [b"\0", b"\xc1", b"\xff\xfe", b"\xed\xa0\x80"]
_TOKENS = st.sampled_from([*_NESTED, *_HUGE, *_RAW, *(word.encode() for word in _WORDS)])
_SHOWN_BYTES = 2048
Edit = Callable[[bytes], bytes]


def _place(data: bytes, where: int) -> int:
    return where * len(data) >> 16


def _flip(where: int, bit: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = min(_place(data, where), len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] if data else data

    return edit


def _cut(where: int) -> Edit:
    return lambda data: data[: _place(data, where)]


def _replace(where: int, length: int, token: bytes) -> Edit:
    """Length 0 inserts; a token of zeros blanks."""

    def edit(data: bytes) -> bytes:
        at = _place(data, where)
        return data[:at] + token + data[at + length :]

    return edit


def _blank(where: int, length: int) -> Edit:
    return _replace(where, length, bytes(length))


def _number(where: int, value: int, width: int, big: bool) -> Edit:
    """A length or an offset that lies, at a whole multiple of its width, as headers have them."""

    def edit(data: bytes) -> bytes:
        at = _place(data, where) // width * width
        raw = (value & (1 << 8 * width) - 1).to_bytes(width, "big" if big else "little")
        return data[:at] + raw + data[at + width :]

    return edit


def _swap(one: int, other: int, length: int) -> Edit:
    def edit(data: bytes) -> bytes:
        first, second = sorted((_place(data, one), _place(data, other)))
        length_ = min(length, second - first, len(data) - second)
        left, right = data[first : first + length_], data[second : second + length_]
        between, rest = data[first + length_ : second], data[second + length_ :]
        return data[:first] + right + between + left + rest

    return edit


def _graft(where: int, other: bytes) -> Edit:
    """The end of another sample."""
    return lambda data: data[: _place(data, where)] + other[_place(other, where) :]


def _edits(samples: Sequence[bytes]) -> st.SearchStrategy[Edit]:
    lengths = st.integers(0, 64)
    return st.one_of(
        st.builds(_flip, _PLACES, st.integers(0, 7)),
        st.builds(_cut, _PLACES),
        st.builds(_blank, _PLACES, lengths),
        st.builds(_replace, _PLACES, lengths, _TOKENS),
        st.builds(_replace, _PLACES, st.just(0), st.binary(max_size=16)),
        st.builds(_number, _PLACES, _NUMBERS, st.sampled_from([1, 2, 4, 8]), st.booleans()),
        st.builds(_swap, _PLACES, _PLACES, lengths),
        st.builds(_graft, _PLACES, st.sampled_from(samples)),
    )


class Bytes(bytes):
    """Bytes that a report of a failure shows in part."""

    def __repr__(self) -> str:
        return f"{bytes(self[:_SHOWN_BYTES])!r}{f' … of {len(self)} bytes' if len(self) > _SHOWN_BYTES else ''}"


@st.composite
def hostile(draw: st.DrawFn, samples: Sequence[bytes], most_edits: int = 3) -> bytes:
    """A sample with up to ``most_edits`` edits, or bytes of no kind at all."""
    if draw(st.integers(0, 15)) == 0:
        return Bytes(draw(st.binary(max_size=512)))
    data = draw(st.sampled_from(samples))
    for edit in draw(st.lists(_edits(samples), max_size=most_edits)):
        data = edit(data)
    return Bytes(data)
