"""Compression of blocks, proved by decoding, without a copy.

cramjam compresses and decodes LZ4 blocks into buffers that are kept, with the GIL released; the lz4 package makes a
new object and copies into it with the GIL held, which held up the other threads of a mover for a third of its time.
Where a new object is wanted, decoding is lz4's. Both speak the same LZ4 block format.
"""

from __future__ import annotations

import ctypes
import enum
import threading

import cramjam
import lz4.block
import zstandard

from holdfast_agent.errors import BlockNotVerified
from holdfast_agent.model.rules import Compression

from .buffers import ThreadBuffer
from .xaes import Buffer

DEFAULT_ZSTD_LEVEL = 1
_WORTH = 0.97  # a payload that shrinks by less than 3 % is stored as it is: decoding it would cost every reader


class Codec(enum.IntEnum):
    """Compression as a number in headers."""

    NONE = 0
    LZ4 = 1
    ZSTD = 2


def compress(plain: Buffer, compression: Compression, level: int, *, verify: bool) -> tuple[Codec, Buffer]:
    """Codec and packed bytes; ``plain`` itself where it would not shrink by 3 %.

    Packed LZ4 is a view of this thread's buffer, overwritten by its next call. ``verify``: decode again and compare.
    Thread-safe. Raises :class:`BlockNotVerified`.
    """
    if compression is Compression.NONE or not len(plain):
        return Codec.NONE, plain
    codec = Codec.LZ4 if compression is Compression.LZ4 else Codec.ZSTD
    packed = _scratch.lz4(plain) if codec is Codec.LZ4 else _scratch.zstd(plain, level)
    if len(packed) > len(plain) * _WORTH:
        return Codec.NONE, plain
    if verify and not _scratch.decodes(codec, packed, plain):
        raise BlockNotVerified(codec=codec.name.lower())
    return codec, packed


def decompress(codec: Codec, packed: Buffer, plain_length: int) -> bytes | None:
    """The plain bytes, or None if ``packed`` does not decode to exactly ``plain_length`` bytes; allocates no more."""
    try:
        if codec is Codec.LZ4:
            plain = bytes(lz4.block.decompress(packed, uncompressed_size=plain_length))
        elif codec is Codec.ZSTD:
            # The decoder trusts the length inside the frame, so that one is compared first.
            if zstandard.frame_content_size(packed) != plain_length:
                return None
            plain = zstandard.ZstdDecompressor().decompress(packed)
        else:
            plain = bytes(packed)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError):
        return None
    return plain if len(plain) == plain_length else None


def decompress_to_view(codec: Codec, packed: Buffer, plain_length: int) -> Buffer | None:
    """As :func:`decompress`, but LZ4 comes as a view of this thread's buffer, overwritten by its next call.

    The buffer begins at a page, so that a disk can take it as it is.
    """
    if codec is Codec.LZ4 and plain_length:
        return _scratch.plain(packed, plain_length)
    if codec is Codec.NONE:
        return packed if len(packed) == plain_length else None
    return decompress(codec, packed, plain_length)


def decompress_prefix(codec: Codec, packed: memoryview, plain_length: int, wanted: int) -> memoryview | None:
    """The first ``wanted`` of ``plain_length`` plain bytes, or None if ``packed`` does not decode so far.

    Takes as long as that part is of the whole. ``packed`` is writable, though nothing writes to it: that is how a view
    tells where it lies. The result is in this thread's buffer, overwritten by its next call, or in ``packed``.
    """
    if codec is Codec.NONE:
        return packed[:wanted] if len(packed) == plain_length else None
    prefix = _plain.view(wanted)
    try:
        if codec is Codec.LZ4:
            decoded = _lz4_partial(_place(packed), _place(prefix), len(packed), wanted, wanted) if len(packed) else 0
        elif zstandard.frame_content_size(packed) == plain_length:
            with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                decoded = reader.readinto(prefix)
        else:
            return None
    except zstandard.ZstdError:
        return None
    return prefix if decoded == wanted else None


# liblz4's own function, which none of its bindings offers, out of the extension that has the library in it or is linked
# against it. It releases the GIL, as all that ctypes calls.
_lz4_partial = ctypes.CDLL(lz4.block._block.__file__).LZ4_decompress_safe_partial
_lz4_partial.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)
_lz4_partial.restype = ctypes.c_int


def _place(view: memoryview) -> object:
    """Where a view begins. (An array of its length would be a new type for each length, which takes 20 µs.)"""
    return ctypes.byref(ctypes.c_char.from_buffer(view))


class _Scratch(threading.local):
    """Buffers of one thread, as large as its largest block."""

    def __init__(self) -> None:
        self._packed = bytearray()
        self._decoded = bytearray()

    def lz4(self, plain: Buffer) -> Buffer:
        most = len(plain) + len(plain) // 255 + 16  # LZ4_COMPRESSBOUND
        if len(self._packed) < most:
            self._packed = bytearray(most)
        length = cramjam.lz4.compress_block_into(plain, self._packed, store_size=False)
        return memoryview(self._packed)[:length]

    def zstd(self, plain: Buffer, level: int) -> Buffer:
        return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(plain)

    def plain(self, packed: Buffer, length: int) -> memoryview | None:
        """What ``packed`` decodes to, if that is just ``length`` bytes."""
        plain = _plain.view(length)
        try:
            decoded = cramjam.lz4.decompress_block_into(packed, plain, output_len=length)
        except cramjam.DecompressionError:
            return None
        return plain if decoded == length else None

    def decodes(self, codec: Codec, packed: Buffer, plain: Buffer) -> bool:
        """Whether ``packed`` decodes to ``plain``."""
        if codec is not Codec.LZ4:
            return decompress(codec, packed, len(plain)) == plain
        if len(self._decoded) != len(plain):
            self._decoded = bytearray(len(plain))
        try:
            length = cramjam.lz4.decompress_block_into(packed, self._decoded, output_len=len(plain))
        except cramjam.DecompressionError:
            return False
        # What was decoded before stands behind what this call decoded, so the length counts.
        return length == len(plain) and self._decoded == plain


_scratch = _Scratch()
_plain = ThreadBuffer()
"""Where a block, or its beginning, is decoded to."""
