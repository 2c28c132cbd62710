"""The codec of the control channel: golden frames, limits, and what malformed bytes get."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import DiskNotFound, MalformedMessage, MessageTooLarge, UnknownMessage, from_record
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import Sid
from holdfast_agent.wire import codec
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.specs import BackupOrder

GOLDEN = [
    (
        m.Hello(major=1, minor=0, software="0.1.0", clock=1.5),
        "85a474797065a548656c6c6fa56d616a6f7201a56d696e6f7200a8736f667477617265a5302e312e30a5636c6f636bcb3ff8000000000000",
    ),
    (m.Heartbeat(), "81a474797065a9486561727462656174"),
    (m.Done(), "81a474797065a4446f6e65"),
    (
        m.RenewLease(lease="s1", ttl_s=60.0),
        "83a474797065aa52656e65774c65617365a56c65617365a27331a574746c5f73cb404e000000000000",
    ),
    (
        m.VerifyProgress(ticket="t", checked_bytes=1, total_bytes=300),
        "84a474797065ae56657269667950726f6772657373a67469636b6574a174ad636865636b65645f627974657301ab746f74616c5f6279746573cd012c",
    ),
]


@pytest.mark.parametrize(("message", "frame"), GOLDEN, ids=lambda value: type(value).__name__)
def test_frames_stay_as_they_are(message: m.Message, frame: str) -> None:
    assert codec.encode(message).hex() == frame
    decode = codec.decode_request if isinstance(message, m.Request) else codec.decode_from_agent
    assert decode(bytes.fromhex(frame)) == message


def test_correlation_is_eight_bytes_little_endian() -> None:
    assert codec.pack_correlation(258) == bytes.fromhex("0201000000000000")
    assert codec.unpack_correlation(bytes.fromhex("0201000000000000"), "x") == 258
    with pytest.raises(MalformedMessage, match="7 bytes"):
        codec.unpack_correlation(b"1234567", "x")


def test_an_error_comes_back_as_its_own_class() -> None:
    error = DiskNotFound(url="file:/x", host="a")
    reply = codec.decode_from_agent(codec.encode(m.Failure(error=error.to_record())))
    assert isinstance(reply, m.Failure)
    again = from_record(reply.error)
    assert isinstance(again, DiskNotFound)
    assert str(again) == str(error)


def test_nobody_can_send_a_reply_as_a_request() -> None:
    with pytest.raises(UnknownMessage, match="'Done'"):
        codec.decode_request(codec.encode(m.Done()))
    with pytest.raises(UnknownMessage, match="'Heartbeat'"):
        codec.decode_from_agent(codec.encode(m.Heartbeat()))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"not msgpack",
        b"\x80",
        msgspec.msgpack.encode({"type": 5}),
        msgspec.msgpack.encode(["RenewLease", "x", 1]),
        msgspec.msgpack.encode({"type": "RenewLease", "lease": "x"}),
        msgspec.msgpack.encode({"type": "RenewLease", "lease": "x", "ttl_s": "long"}),
        msgspec.msgpack.encode({"type": "Heartbeat"}) + b"\0",
        codec.encode(m.Heartbeat())[:-1],
        b"\x91" * 100_000,
        b"\x81\xa4type" + b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa4type\xd9\x02\xff\xfe",
    ],
    ids=range(14),
)
def test_malformed_frames(frame: bytes) -> None:
    with pytest.raises(MalformedMessage, match="from vault"):
        codec.decode_request(frame, "vault")


def test_an_unknown_type_is_named_but_briefly() -> None:
    with pytest.raises(UnknownMessage) as caught:
        codec.decode_request(msgspec.msgpack.encode({"type": "X" * 5000}))
    assert len(str(caught.value)) < 200


def test_only_an_order_may_exceed_the_ordinary_limit() -> None:
    big = bytes(codec.CONTROL_LIMIT_BYTES)
    blob = m.StoreBlob(lease="l", repository="/r", sid=Sid("0" * 32), mover=0, record=big)
    with pytest.raises(MessageTooLarge):
        codec.encode(blob)
    with pytest.raises(MessageTooLarge):
        codec.decode_request(msgspec.msgpack.encode(blob))
    extents = tuple(Extent(n << 40, 1 << 20) for n in range(600_000))
    order = BackupOrder(geometry=Geometry(1 << 60), disks=("file:/x",), mode=ChangeMode.CBT, extents=extents)
    begin = m.BeginTransfer(lease="l", mover="m", order=order)
    frame = codec.encode(begin)
    assert len(frame) > codec.CONTROL_LIMIT_BYTES
    assert codec.decode_request(frame) == begin


def test_nothing_exceeds_the_limit_of_orders() -> None:
    with pytest.raises(MessageTooLarge):
        codec.decode_request(bytes(codec.ORDER_LIMIT_BYTES + 1))
    with pytest.raises(MessageTooLarge):
        codec.decode_from_agent(bytes(codec.CONTROL_LIMIT_BYTES + 1))


def test_later_fields_are_ignored_as_minor_versions_may_add_them() -> None:
    frame = msgspec.msgpack.encode({"type": "Heartbeat", "added_in_1_1": [1, 2]})
    assert codec.decode_request(frame) == m.Heartbeat()
