"""The helper that compares contents finds what differs and says where."""

from __future__ import annotations

import pytest

from lab.contents import assert_same

MIB = 1 << 20
ONE = bytes(5 * MIB)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (ONE, bytearray(ONE)),
        ({"a": [memoryview(ONE), 1]}, {"a": [ONE, 1]}),
        ((b"", None), [b"", None]),
        (b"", b""),
    ],
)
def test_what_is_equal_passes(found: object, expected: object) -> None:
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("found", "expected", "told"),
    [
        (ONE[:-3] + b"xyz", ONE, f"at byte {5 * MIB - 3} 78797a instead of 000000"),
        (b"\1" + ONE[1:], ONE, "at byte 0 0100"),
        (ONE[:-1], ONE, f"at byte {5 * MIB - 1} nothing instead of 00 .* not {5 * MIB}"),
        (ONE, b"", "at byte 0 0{32} instead of nothing"),
        ({1: ONE}, {2: ONE}, r"\['1'\] instead of \['2'\]"),
        ([ONE], [ONE, ONE], "1 parts instead of 2"),
        ({"d": (ONE, b"a")}, {"d": (ONE, b"b")}, r"\[d\] \[1\] at byte 0 61 instead of 62"),
        (None, ONE, "None instead of b'"),
    ],
)
def test_what_differs_is_told_in_a_few_words(found: object, expected: object, told: str) -> None:
    with pytest.raises(AssertionError, match=f"disk 1: .*{told}") as caught:
        assert_same(found, expected, "disk 1")
    assert len(str(caught.value)) < 700
