"""Records: round trips, golden bytes, and that no altered byte is ever returned as data."""

from __future__ import annotations

import os
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import msgspec
import pytest
import zstandard

from holdfast_agent.errors import BlockNotVerified, FormatUnsupported, HoldfastError, ObjectDamaged, WrongKey
from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.rules import Compression
from holdfast_agent.sealing import codecs, records
from holdfast_agent.sealing.keys import PUBLIC, DataKeys, MasterKey, RepositoryKeys
from holdfast_agent.sealing.records import Codec, RecordKind, open_record, parse_header, seal_record
from holdfast_agent.sealing.tree import encode_node
from lab.contents import assert_same

ID = "00112233445566778899aabbccddeeff"
SECRET = RepositoryKeys.derive(MasterKey(bytes(range(32))), ID).data_keys()
OPEN = RepositoryKeys.derive(PUBLIC, ID).data_keys()
TEXT = b"all work and no play makes jack a dull boy\n" * 100
NOISE = random.Random(1).randbytes(4096)


def seal(plain: bytes, keys: DataKeys = SECRET, compression: Compression = Compression.LZ4) -> bytes:
    return b"".join(seal_record(RecordKind.DATA, plain, keys.block_id(plain), keys, compression))


@pytest.mark.parametrize("keys", [SECRET, OPEN], ids=["sealed", "public"])
@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("plain", [TEXT, NOISE, b"", b"x"], ids=["text", "noise", "empty", "byte"])
def test_round_trip(keys: DataKeys, compression: Compression, plain: bytes) -> None:
    record = seal(plain, keys, compression)
    assert_same(open_record(record, keys, keys.block_id(plain)), plain)
    assert_same(open_record(memoryview(record), keys), plain)
    header = records.check_record(record)
    assert (header.plain_length, header.record_length) == (len(plain), len(record))


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("plain", [TEXT, NOISE + TEXT, NOISE], ids=["text", "both", "noise"])
def test_parts_are_what_the_whole_has_there(compression: Compression, plain: bytes) -> None:
    pieces = records.split_record(seal(plain, SECRET, compression))
    chance = random.Random(2)
    for start in [0, len(plain) - 1, *chance.sample(range(len(plain)), 50)]:
        for end in {start + 1, len(plain), chance.randint(start + 1, len(plain))}:
            part = records.part_of_pieces(pieces, SECRET, SECRET.block_id(plain), start, end)
            assert_same(part, plain[start:end])
    with pytest.raises(ObjectDamaged):
        records.part_of_pieces(pieces, SECRET, SECRET.block_id(plain), 0, len(plain) + 1)


@pytest.mark.parametrize("compression", list(Compression))
def test_no_part_of_a_record_that_was_altered_anywhere_is_given(compression: Compression) -> None:
    """Not even of a beginning that would decode as before."""
    plain = TEXT[:600]
    for position, altered in enumerate(flips(seal(plain, SECRET, compression))):
        if not 88 <= position < 96:
            with pytest.raises(HoldfastError):
                pieces = records.split_record(mend_crcs(altered))
                records.part_of_pieces(pieces, SECRET, SECRET.block_id(plain), 0, 1)
    with pytest.raises(HoldfastError):
        records.part_of_pieces(records.split_record(seal(TEXT)[:-1]), SECRET, SECRET.block_id(TEXT), 0, 1)


def test_what_was_sealed_and_does_not_decode_is_damaged() -> None:
    """By a writer that lies, or whose memory did."""
    garbage = random.Random(3).randbytes(500)
    for codec in (Codec.LZ4, Codec.ZSTD):
        front = records._front(RecordKind.DATA, codec, 1, 1, 4096, 516, SECRET.block_id(TEXT), bytes(24))
        associated = bytes.fromhex(ID) + front
        payload = records.xaes.encrypt(SECRET.enc_key, bytes(24), garbage, associated)
        pieces = (records._finish(front, payload), payload)
        with pytest.raises(ObjectDamaged, match="does not decode"):
            records.part_of_pieces(pieces, SECRET, SECRET.block_id(TEXT), 4000, 4096)


def test_without_a_cipher_there_are_no_parts() -> None:
    with pytest.raises(ValueError, match="its id alone"):
        records.part_of_pieces(records.split_record(seal(TEXT, OPEN)), OPEN, OPEN.block_id(TEXT), 0, 1)


def test_golden_bytes_of_a_public_record() -> None:
    record = seal(b"holdfast" * 8, OPEN)
    assert record.hex() == (
        "48465243010101000000000000000000400000001200000054cac18d91ac529b9e699f721656878457174e9a1f8b2961"
        "5a5b2fc6fa16d3d100000000000000000000000000000000000000000000000000000000000000006e73131a20d1c7d7"
        "8f686f6c6466617374080020506466617374"
    )


def test_golden_bytes_of_a_sealed_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda length: bytes(range(length)))
    record = seal(b"holdfast" * 8, SECRET)
    assert record.hex() == (
        "484652430101010101000000000000004000000022000000eaa0c572a7c43d1e3b026932f7862378feac106037f026cc"
        "91d35abaa1e0a9ae000102030405060708090a0b0c0d0e0f101112131415161700000000000000007377881938b50b6a"
        "b455a7c78b37a3bb35650af08c60d8f7bde0a8449501ca7ca3ad366d9f6a9dd835a4"
    )

    assert open_record(record, SECRET) == b"holdfast" * 8


def test_what_hardly_shrinks_is_stored_as_it_is() -> None:
    assert parse_header(seal(NOISE)).codec == Codec.NONE
    assert parse_header(seal(NOISE + bytes(64))).codec == Codec.NONE
    assert parse_header(seal(NOISE + bytes(400))).codec == Codec.LZ4


def test_the_same_block_is_never_sealed_twice_with_one_nonce() -> None:
    assert len({parse_header(seal(TEXT)).nonce for _ in range(200)}) == 200


def test_nonces_differ_after_a_fork() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, parse_header(seal(TEXT)).nonce)
        os._exit(0)
    mine = parse_header(seal(TEXT)).nonce
    os.waitpid(child, 0)
    assert os.read(reader, 24) != mine
    os.close(reader)
    os.close(writer)


def flips(record: bytes) -> Iterator[bytes]:
    for position in range(len(record)):
        altered = bytearray(record)
        altered[position] ^= 1 << position % 8
        yield bytes(altered)


@pytest.mark.parametrize("keys", [SECRET, OPEN], ids=["sealed", "public"])
def test_every_flipped_byte_is_detected_without_keys(keys: DataKeys) -> None:
    for altered in flips(seal(TEXT, keys)):
        with pytest.raises((ObjectDamaged, FormatUnsupported)):
            records.check_record(altered)


def mend_crcs(record: bytes) -> bytes:
    """What somebody would do who alters a record on purpose."""
    front = record[:88] + zlib.crc32(record[96:]).to_bytes(4, "little")
    return front + zlib.crc32(front).to_bytes(4, "little") + record[96:]


def test_every_byte_of_a_sealed_record_is_authentic() -> None:
    plain = TEXT[:600]
    for position, altered in enumerate(flips(seal(plain))):
        if not 88 <= position < 96:  # the CRCs themselves, which `mend_crcs` puts right again
            with pytest.raises(HoldfastError):
                open_record(mend_crcs(altered), SECRET, SECRET.block_id(plain))


def test_a_forged_public_record_never_gives_other_data() -> None:
    plain = TEXT[:600]
    refused = 0
    for altered in flips(seal(plain, OPEN)):
        try:
            assert_same(open_record(mend_crcs(altered), OPEN, OPEN.block_id(plain)), plain)
        except HoldfastError:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize("length", [0, 1, 50, 95, 96, 97, -1])
def test_every_cut_is_detected(length: int) -> None:
    with pytest.raises(ObjectDamaged):
        records.check_record(seal(TEXT)[:length])
    with pytest.raises(ObjectDamaged):
        records.check_record(seal(TEXT) + b"\0")


def forge(record: bytes, **fields: int) -> bytes:
    """``record`` with some header fields replaced and the CRCs put right."""
    places = {"version": (4, 1), "kind": (5, 1), "codec": (6, 1), "cipher": (7, 1), "epoch": (8, 4), "flags": (12, 4),
              "plain_length": (16, 4), "payload_length": (20, 4)}  # fmt: skip
    altered = bytearray(record)
    for field, value in fields.items():
        offset, length = places[field]
        altered[offset : offset + length] = value.to_bytes(length, "little")
    return mend_crcs(bytes(altered))


@pytest.mark.parametrize("fields", [{"plain_length": 0xFFFFFFFF}, {"payload_length": 0xFFFFFFF0}])
def test_huge_lengths_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ObjectDamaged, match="longer than allowed"):
        records.check_record(forge(seal(TEXT, OPEN), **fields))


@pytest.mark.parametrize("compression", [Compression.LZ4, Compression.ZSTD])
def test_a_bomb_does_not_allocate_more_than_a_block(compression: Compression) -> None:
    zeros = bytes(64 << 20)
    packed = codecs.compress(zeros, compression, 1, verify=True)[1]
    header, _ = seal_record(RecordKind.DATA, b"a" * 1000, OPEN.block_id(b""), OPEN, compression)
    bomb = forge(header + packed, payload_length=len(packed), plain_length=4096)
    tracemalloc.start()
    with pytest.raises(ObjectDamaged):
        open_record(bomb, OPEN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (8 << 20)


def test_a_zstd_frame_without_its_length_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    header, _ = seal_record(RecordKind.DATA, TEXT, OPEN.block_id(TEXT), OPEN, Compression.ZSTD)
    with pytest.raises(ObjectDamaged):
        open_record(forge(header + packed, payload_length=len(packed)), OPEN)


@pytest.mark.parametrize("fields", [{"version": 2}, {"codec": 9}, {"cipher": 9}, {"kind": 9}, {"flags": 1}])
def test_what_a_later_version_wrote_is_told_apart_from_damage(fields: dict[str, int]) -> None:
    with pytest.raises(FormatUnsupported):
        open_record(forge(seal(TEXT, OPEN), **fields), OPEN)


def test_another_key_epoch_or_cipher_is_told() -> None:
    other = RepositoryKeys.derive(MasterKey.generate(), ID).data_keys()
    with pytest.raises(WrongKey):
        open_record(seal(TEXT), other)
    with pytest.raises(WrongKey, match="epoch"):
        open_record(seal(TEXT), msgspec.structs.replace(SECRET, epoch=2))
    with pytest.raises(WrongKey, match="cipher"):
        open_record(seal(TEXT, OPEN), SECRET)


def test_a_record_of_another_repository_does_not_open() -> None:
    with pytest.raises(WrongKey):
        open_record(seal(TEXT), msgspec.structs.replace(SECRET, repository_id="ff" * 16))


def test_swapped_records_are_detected() -> None:
    with pytest.raises(ObjectDamaged, match="another record"):
        open_record(seal(TEXT), SECRET, SECRET.block_id(NOISE))


def test_content_that_does_not_match_its_id_is_detected() -> None:
    lie = b"".join(seal_record(RecordKind.DATA, TEXT, SECRET.block_id(NOISE), SECRET))
    with pytest.raises(ObjectDamaged, match="match its id"):
        open_record(lie, SECRET)


def test_a_codec_that_lies_is_found_before_anything_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = codecs.cramjam.lz4.compress_block_into
    liar = SimpleNamespace(
        compress_block_into=lambda plain, *out, **more: honest(b"\0" + plain[1:], *out, **more),
        decompress_block_into=codecs.cramjam.lz4.decompress_block_into,
    )
    monkeypatch.setattr(
        codecs, "cramjam", SimpleNamespace(lz4=liar, DecompressionError=codecs.cramjam.DecompressionError)
    )
    with pytest.raises(BlockNotVerified):
        seal(TEXT)
    unchecked = msgspec.structs.replace(SECRET, verify_decode=False)
    with pytest.raises(ObjectDamaged):
        open_record(seal(TEXT, unchecked), SECRET)


def test_node_records_need_no_keys_and_are_proved_by_their_id() -> None:
    node_id, data = encode_node(0, 20, b"i" * 64)
    record = b"".join(records.plain_record(RecordKind.NODE, data, node_id))
    assert records.open_plain_record(record, node_id) == data
    for altered in flips(record):
        with pytest.raises((ObjectDamaged, FormatUnsupported)):
            records.open_plain_record(altered, node_id)
    with pytest.raises(ObjectDamaged):
        records.open_plain_record(record, BlockId(b"o" * 32))
    with pytest.raises(ObjectDamaged):
        records.open_plain_record(seal(data, OPEN), OPEN.block_id(data))


def test_a_block_larger_than_allowed_is_a_defect() -> None:
    big = bytes(records.MOST_PLAIN_BYTES + 1)
    with pytest.raises(ValueError, match="at most"):
        seal_record(RecordKind.DATA, big, OPEN.block_id(big), OPEN)
