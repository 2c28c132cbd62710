"""XAES-256-GCM against the vectors of its specification (https://c2sp.org/XAES-256-GCM)."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidTag

from holdfast_agent.sealing import xaes

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"
PLAIN = b"XAES-256-GCM"
VECTORS = [
    # The two keys differ in the most significant bit of the CMAC subkey, so both ways of deriving it are taken.
    (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
    (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
]


@pytest.mark.parametrize(("key", "associated", "sealed"), VECTORS)
def test_vectors_of_the_specification(key: bytes, associated: bytes, sealed: str) -> None:
    assert xaes.encrypt(key, NONCE, PLAIN, associated).hex() == sealed
    assert xaes.decrypt(key, NONCE, bytes.fromhex(sealed), associated) == PLAIN


def test_accumulated_vector_of_10_000_random_messages() -> None:
    source, accumulated = _Shake(), hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = source.read(32), source.read(24)
        plain = source.read(source.read(1)[0])
        associated = source.read(source.read(1)[0])
        accumulated.update(xaes.encrypt(key, nonce, plain, associated))
    assert accumulated.digest(32).hex() == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@pytest.mark.parametrize("position", [0, 5, 11, 12, 27])
def test_an_altered_byte_is_refused(position: int) -> None:
    sealed = bytearray(xaes.encrypt(b"k" * 32, NONCE, PLAIN, b"header"))
    sealed[position] ^= 1
    with pytest.raises(InvalidTag):
        xaes.decrypt(b"k" * 32, NONCE, bytes(sealed), b"header")


def test_each_half_of_the_nonce_and_the_associated_data_count() -> None:
    sealed = xaes.encrypt(b"k" * 32, NONCE, PLAIN, b"header")
    for nonce, associated in ((b"x" + NONCE[1:], b"header"), (NONCE[:-1] + b"x", b"header"), (NONCE, b"other")):
        with pytest.raises(InvalidTag):
            xaes.decrypt(b"k" * 32, nonce, sealed, associated)


def test_a_nonce_of_the_wrong_length_is_a_defect() -> None:
    with pytest.raises(ValueError, match="24 bytes"):
        xaes.encrypt(b"k" * 32, b"short", PLAIN, b"")


class _Shake:
    """SHAKE128 of nothing, read as a stream."""

    def __init__(self) -> None:
        self._data = hashlib.shake_128().digest(8 << 20)
        self._position = 0

    def read(self, length: int) -> bytes:
        self._position += length
        return self._data[self._position - length : self._position]
