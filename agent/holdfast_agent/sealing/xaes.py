"""XAES-256-GCM (C2SP): AES-256-GCM with 192-bit nonces, so that random nonces never need a counter.

A 96-bit nonce drawn at random repeats too soon for a repository that many writers fill for years; 192 bits do
not, across fork and resume too. Each message costs three AES blocks more than AES-256-GCM.
Source: https://c2sp.org/XAES-256-GCM.
"""

from __future__ import annotations

import threading

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Buffer = bytes | bytearray | memoryview
KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16
_MSB = 1 << 127
_MASK = (1 << 128) - 1


def encrypt(key: bytes, nonce: bytes, plain: Buffer, associated: bytes) -> bytes:
    """Ciphertext with its 16-byte tag at the end. ``nonce`` is 24 random bytes, never used twice with ``key``."""
    derived, rest = _derive(key, nonce)
    return AESGCM(derived).encrypt(rest, plain, associated)


def decrypt(key: bytes, nonce: bytes, sealed: Buffer, associated: bytes) -> bytes:
    """The plain bytes; raises ``cryptography.exceptions.InvalidTag`` if anything was altered."""
    derived, rest = _derive(key, nonce)
    return AESGCM(derived).decrypt(rest, sealed, associated)


def decrypt_into(key: bytes, nonce: bytes, sealed: Buffer, associated: bytes, into: memoryview) -> None:
    """As :func:`decrypt`, into a buffer of just the right length, whose content is worthless if it raises."""
    derived, rest = _derive(key, nonce)
    AESGCM(derived).decrypt_into(rest, sealed, associated, into)


def _derive(key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Key and 96-bit nonce of the inner AES-256-GCM: two one-block CMACs over the first half of the nonce."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"an XAES-256-GCM nonce has {NONCE_BYTES} bytes")
    block, subkey = _outer.of(key)
    first, second = (
        (int.from_bytes(bytes((0, counter, 0x58, 0)) + nonce[:12], "big") ^ subkey).to_bytes(16, "big")
        for counter in (1, 2)
    )
    return block.update(first + second), nonce[12:]


class _Outer(threading.local):
    """The last outer key's AES and CMAC subkey in this thread: OpenSSL takes longer to set them up than to use them."""

    def __init__(self) -> None:
        self._key = b""

    def of(self, key: bytes) -> tuple[CipherContext, int]:
        if key != self._key:
            self._block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 -- as CMAC is defined
            zero = int.from_bytes(self._block.update(bytes(16)), "big")
            self._subkey = ((zero << 1) & _MASK) ^ (0x87 if zero & _MSB else 0)
            self._key = key
        return self._block, self._subkey


_outer = _Outer()
