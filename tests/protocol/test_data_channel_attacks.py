"""The data channel against somebody between the movers, somebody without the secret, and silence."""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from holdfast_agent.channel import data_connection
from holdfast_agent.channel.data_connection import DataConnection, Incoming
from holdfast_agent.channel.data_connector import DataConnector
from holdfast_agent.channel.data_handshake import (
    HELLO_BYTES,
    PROTOCOL_VERSION,
    Hello,
    Welcome,
    decode_hello,
    decode_welcome,
    encode_hello,
    encode_welcome,
)
from holdfast_agent.channel.data_incarnation import Incarnation
from holdfast_agent.channel.data_listener import DataListener
from holdfast_agent.channel.data_records import MAX_FRAME_BYTES, RecordKind
from holdfast_agent.errors import ConnectionLost, HoldfastError, RecordRejected, Unreachable, VersionMismatch
from holdfast_agent.model.link import LinkTimeouts
from lab.waiting import wait_until

SECRET = bytes(range(32))
PORTS = (20000, 29999)
PATIENT = LinkTimeouts(silence_s=10, stall_s=10, resume_s=0)
Frames = list[bytes]


def stalling(stall_s: float) -> LinkTimeouts:
    return LinkTimeouts(silence_s=10, stall_s=stall_s, resume_s=0)


class Pair:
    """Two connected ends, driven by one thread."""

    def __init__(
        self,
        listener: DataListener,
        endpoint: str,
        *,
        streams: int = 1,
        timeouts: LinkTimeouts = PATIENT,
        window: int = 1 << 22,
    ) -> None:
        connector = DataConnector(
            [endpoint], SECRET, streams=streams, timeout_s=10, timeouts=timeouts, window_bytes=window
        )
        near = far = None
        while near is None or far is None:
            near = near or connector.poll(0.05)
            far = far or listener.poll(0.05)
        self.near: DataConnection = near
        self.far: DataConnection = far

    def close(self) -> None:
        self.near.abort()
        self.far.abort()


def listen(window: int = 1 << 22, timeouts: LinkTimeouts = PATIENT) -> DataListener:
    return DataListener("127.0.0.1", "127.0.0.1", PORTS, SECRET, timeouts=timeouts, window_bytes=window)


def hear(connection: DataConnection, tries: int = 200) -> Incoming:
    """The next message; raises what the connection raises."""
    for _ in range(tries):
        incoming = connection.receive()
        if incoming is not None:
            return incoming
        connection.check_alive()
        connection.wait(0.05)
    raise AssertionError("nothing came")


def standing(connection: DataConnection) -> Incarnation:
    assert connection._life is not None
    return connection._life


@pytest.fixture
def pair() -> Iterator[Pair]:
    listener = listen()
    pair = Pair(listener, listener.endpoint)
    yield pair
    pair.close()


@contextmanager
def middleman(target: str, alter: Callable[[int, Frames], list[Frames]]) -> Iterator[str]:
    """A ZeroMQ proxy: what ``alter`` makes of the n-th message from the connecting side goes on instead of it."""
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    control, remote = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    control.bind("inproc://stop")
    remote.connect("inproc://stop")
    port = front.bind_to_random_port("tcp://127.0.0.1")
    back.connect(target)

    def forward() -> None:
        poller = zmq.Poller()
        for item in (front, back, remote):
            poller.register(item, zmq.POLLIN)
        route, number = b"", 0
        while True:
            ready = dict(poller.poll())
            if remote in ready:
                break
            if front in ready:
                route, *frames = front.recv_multipart()
                for message in alter(number, frames):
                    back.send_multipart(message)
                number += 1
            if back in ready:
                front.send_multipart([route, *back.recv_multipart()])
        for item in (front, back, remote):
            item.close(0)

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        control.send(b"")
        thread.join()
        control.close(0)
        context.term()


def flip(frame: bytes, place: int) -> bytes:
    return frame[:place] + bytes([frame[place] ^ 0x40]) + frame[place + 1 :]


# Message 0 is the Hello, 1 the confirmation; 2 is the first of the movers' own.
ATTACKS: dict[str, Callable[[int, Frames], list[Frames]]] = {
    "sealed text altered": lambda n, f: [[f[0], flip(f[1], 9)]] if n == 2 else [f],
    "kind altered": lambda n, f: [[flip(f[0], 0), f[1]]] if n == 2 else [f],
    "sequence altered": lambda n, f: [[flip(f[0], 8), f[1]]] if n == 2 else [f],
    "length altered": lambda n, f: [[flip(f[0], 4), f[1]]] if n == 2 else [f],
    "cut": lambda n, f: [[f[0], f[1][:-1]]] if n == 2 else [f],
    "header cut": lambda n, f: [[f[0][:-1], f[1]]] if n == 2 else [f],
    "frame missing": lambda n, f: [f[:1]] if n == 2 else [f],
    "played back": lambda n, f: [f, f] if n == 2 else [f],
    "dropped": lambda n, f: [] if n == 2 else [f],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_middleman_ends_the_connection_and_gains_nothing(attack: str) -> None:
    listener = listen()
    with middleman(listener.endpoint, ATTACKS[attack]) as endpoint:
        pair = Pair(listener, endpoint)
        pair.near.send(b"first")
        pair.near.send(b"second")
        heard = []
        with pytest.raises(RecordRejected) as caught:
            for _ in range(3):
                heard.append(bytes(hear(pair.far).body))
        assert caught.value.retryable
        assert heard in ([], [b"first"])
        assert heard == ([b"first"] if attack == "played back" else [])
        pair.close()


CARRIER_ATTACKS: dict[str, Callable[[int, Frames], list[Frames]]] = {
    "ciphertext altered": lambda n, f: [[*f[:2], flip(f[2], 70_000)]] if n == 2 else [f],
    "ciphertext cut": lambda n, f: [[*f[:2], f[2][:-1]]] if n == 2 else [f],
    "ciphertext dropped": lambda n, f: [f[:2]] if n == 2 else [f],
    "ciphertext empty": lambda n, f: [[*f[:2], b""]] if n == 2 else [f],
    "ciphertext of another record": lambda n, f: [[*f[:2], b"2" * 100_000]] if n == 2 else [f],
    "a fourth frame": lambda n, f: [[*f, b"x"]] if n == 2 else [f],
    "a carrier made a message": lambda n, f: [[b"\2" + f[0][1:], *f[1:]]] if n == 2 else [f],
    "a message made a carrier": lambda n, f: [[b"\6" + f[0][1:], *f[1:], b"x"]] if n == 3 else [f],
    "a frame added to a message": lambda n, f: [[*f, b"x"]] if n == 3 else [f],
    "played back": lambda n, f: [f, f] if n == 2 else [f],
}


@pytest.mark.parametrize("attack", CARRIER_ATTACKS)
def test_ciphertext_that_travels_as_it_is_cannot_be_altered(attack: str) -> None:
    listener = listen()
    with middleman(listener.endpoint, CARRIER_ATTACKS[attack]) as endpoint:
        pair = Pair(listener, endpoint)
        pair.near.send(b"first", ciphertext=b"1" * 100_000)
        pair.near.send(b"second")
        heard = []
        with pytest.raises(RecordRejected):
            for _ in range(3):
                incoming = hear(pair.far)
                heard.append((bytes(incoming.body), bytes(incoming.payload)))
        untouched = attack in ("a message made a carrier", "a frame added to a message", "played back")
        assert heard == ([(b"first", b"1" * 100_000)] if untouched else [])
        pair.close()


def test_ciphertext_arrives_as_it_was_and_costs_credit(pair: Pair) -> None:
    sealed = os.urandom(300_000)
    cost = pair.near.send(b"head", ciphertext=sealed)
    incoming = hear(pair.far)
    assert (bytes(incoming.body), bytes(incoming.payload)) == (b"head", sealed)
    assert incoming.cost_bytes == cost > len(sealed)


def test_two_records_that_change_places_are_refused() -> None:
    held: list[Frames] = []

    def swap(number: int, frames: Frames) -> list[Frames]:
        if number == 2:
            held.append(frames)
            return []
        return [frames, *held] if number == 3 else [frames]

    listener = listen()
    with middleman(listener.endpoint, swap) as endpoint:
        pair = Pair(listener, endpoint)
        pair.near.send(b"first")
        pair.near.send(b"second")
        with pytest.raises(RecordRejected, match="came in the place of"):
            hear(pair.far)
        pair.close()


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"hello"],
        [os.urandom(HELLO_BYTES)],
        [encode_hello(Hello(1, 0, 1, 1 << 20, 1, bytes(16), bytes(32)), b"w" * 32)],
        [bytes(16), bytes(100)],
        [b"a", b"b", b"c", b"d"],
    ],
    ids=["empty", "short", "random", "wrong secret", "record", "many frames"],
)
def test_nobody_without_the_secret_gets_an_answer_and_the_true_peer_still_connects(frames: Frames) -> None:
    listener = listen()
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(listener.endpoint)
    stranger.send_multipart(frames)
    assert listener.poll(1) is None
    pair = Pair(listener, listener.endpoint)
    assert stranger.poll(100) == 0
    stranger.close(0)
    context.term()
    pair.close()


def test_a_hello_played_back_gets_no_answer() -> None:
    copies: list[bytes] = []

    def record(number: int, frames: Frames) -> list[Frames]:
        copies.extend(frames if number == 0 else [])
        return [frames]

    listener = listen()
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    with middleman(listener.endpoint, record) as endpoint:
        connector = DataConnector([endpoint], SECRET, timeout_s=10, timeouts=PATIENT)
        near = None
        while not copies:
            near = connector.poll(0.02)
        stranger.connect(listener.endpoint)
        far = listener.poll(0.2)
        stranger.send(copies[0])
        while far is None or near is None:
            far = far or listener.poll(0.05)
            near = near or connector.poll(0.05)
        far.wait(0.1)
        assert far.receive() is None
        assert stranger.poll(100) == 0
        near.abort()
        far.abort()
    stranger.close(0)
    context.term()


def test_a_stranger_on_the_port_of_a_connection_is_not_heard(pair: Pair) -> None:
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(pair.near.peer)
    stranger.send_multipart([bytes(16), bytes(64)])
    pair.near.send(b"mine")
    assert bytes(hear(pair.far).body) == b"mine"
    assert pair.far.receive() is None
    stranger.close(0)
    context.term()


def test_an_oversized_frame_is_cut_off_before_memory_is_taken_for_it(pair: Pair) -> None:
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    stranger.connect(pair.near.peer)
    stranger.send(bytes(MAX_FRAME_BYTES + 1))
    assert monitor.poll(60_000)
    pair.near.send(b"mine")
    assert bytes(hear(pair.far).body) == b"mine"
    stranger.disable_monitor()
    monitor.close(0)
    stranger.close(0)
    context.term()


def test_a_wrong_secret_is_unreachable() -> None:
    listener = listen()
    connector = DataConnector([listener.endpoint], b"w" * 32, timeout_s=0.3, timeouts=PATIENT)
    with pytest.raises(Unreachable):
        while True:
            assert connector.poll(0.05) is None
            assert listener.poll(0.05) is None
    connector.close()
    listener.close()


def test_a_false_welcome_is_refused() -> None:
    context = zmq.Context()
    liar = context.socket(zmq.ROUTER)
    port = liar.bind_to_random_port("tcp://127.0.0.1")
    connector = DataConnector([f"tcp://127.0.0.1:{port}"], SECRET, timeout_s=5, timeouts=PATIENT)
    assert connector.poll(0.01) is None
    route, hello = liar.recv_multipart()
    assert decode_hello(hello, SECRET) is not None
    liar.send_multipart([route, os.urandom(76)])
    with pytest.raises(RecordRejected):
        while True:
            connector.poll(0.5)
    liar.close(0)
    context.term()


def _hello_of(version: int) -> bytes:
    """As that version wrote it, authentic: 1 and 2 had no incarnation and no name of the connection between."""
    if version >= 3:
        return encode_hello(Hello(version, 0, 1, 1 << 20, 1, bytes(16), bytes(32)), SECRET)
    body = struct.pack("<4sHBBI16s32s", b"HFDH", version, 0, 1, 1 << 20, bytes(16), bytes(32))
    key = hmac.digest(SECRET, b"holdfast data channel 1 hello", "sha256")
    return body + hmac.digest(key, body, "sha256")


@pytest.mark.parametrize("version", [1, 2, PROTOCOL_VERSION + 1])
def test_another_version_is_named_on_the_listening_side_and_told_to_the_other(version: int) -> None:
    listener = listen()
    context = zmq.Context()
    other = context.socket(zmq.DEALER)
    other.connect(listener.endpoint)
    hello = _hello_of(version)
    other.send(hello)
    with pytest.raises(VersionMismatch) as caught:
        while True:
            listener.poll(1)
    assert caught.value.fields["theirs"] == version
    assert other.poll(60_000)  # the peer proved itself, so it is told
    assert decode_welcome(other.recv(), hello, SECRET).version == PROTOCOL_VERSION
    listener.close()
    other.close(0)
    context.term()


def test_another_version_that_proves_nothing_gets_no_answer() -> None:
    listener = listen()
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(listener.endpoint)
    stranger.send(flip(_hello_of(2), 20))
    pair = Pair(listener, listener.endpoint)  # by then it was heard
    assert not stranger.poll(0)
    pair.close()
    stranger.close(0)
    context.term()


@pytest.mark.parametrize("version", [1, 2, PROTOCOL_VERSION + 1])
def test_another_version_is_named_on_the_connecting_side(version: int) -> None:
    context = zmq.Context()
    other = context.socket(zmq.ROUTER)
    port = other.bind_to_random_port("tcp://127.0.0.1")
    connector = DataConnector([f"tcp://127.0.0.1:{port}"], SECRET, timeout_s=5, timeouts=PATIENT)
    assert connector.poll(0.01) is None
    route, hello = other.recv_multipart()
    other.send_multipart([route, encode_welcome(Welcome(version, 1 << 20, bytes(32)), hello, SECRET)])
    with pytest.raises(VersionMismatch) as caught:
        while True:
            connector.poll(0.5)
    assert caught.value.fields["theirs"] == version
    assert not caught.value.retryable, "another try meets the same version"
    other.close(0)
    context.term()


@pytest.mark.parametrize("speaker", ["near", "far"])
def test_last_words_are_heard_by_a_peer_that_is_busy_when_they_come(
    pair: Pair, speaker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_connection, "_LINGER_S", 600.0)
    speaks, hears = (pair.near, pair.far) if speaker == "near" else (pair.far, pair.near)
    speaks.send(b"last words")
    leaving = threading.Thread(target=speaks.close)
    leaving.start()
    leaving.join(0.2)  # so long nobody listens; who left meanwhile would have taken the words along
    assert bytes(hear(hears).body) == b"last words"
    with pytest.raises(ConnectionLost):
        hear(hears)
    leaving.join()  # who leaves does not wait for the goodbye of a peer that is gone


def test_silence_is_a_lost_connection() -> None:
    listener = listen(timeouts=stalling(0.3))
    pair = Pair(listener, listener.endpoint, timeouts=stalling(0.3))
    pair.near.send(b"once")
    assert bytes(hear(pair.far).body) == b"once"
    with pytest.raises(ConnectionLost, match="said nothing"):
        hear(pair.far)  # the near side is not driven, so it sends no heartbeat
    pair.close()


def test_heartbeats_keep_an_idle_connection() -> None:
    listener = listen(timeouts=stalling(1.0))
    pair = Pair(listener, listener.endpoint, timeouts=stalling(1.0))
    for _ in range(20):
        for end in (pair.near, pair.far):
            end.wait(0.04)
            assert end.receive() is None
            end.check_alive()
    pair.close()


def _drive(pair: Pair, seconds: float) -> tuple[int, Incoming | None]:
    """Let both ends do what is due, as movers do; bytes that arrived at the far end, and the message if it is whole."""
    arrived, begun = 0, time.monotonic()
    while time.monotonic() - begun < seconds:
        pair.near.wait(0.01)
        pair.far.wait(0)
        assert pair.near.receive() is None
        message = pair.far.receive()
        pair.near.check_alive()
        pair.far.check_alive()
        arrived = sum(len(stream.arriving) for stream in standing(pair.far).streams)
        if message is not None:
            return arrived, message
    return arrived, None


@pytest.mark.parametrize("encrypted", [False, True])
def test_under_a_limit_a_large_message_is_a_thin_stream(pair: Pair, encrypted: bool) -> None:
    bulk = bytes(range(256)) * 4096
    pair.near.limit(64 << 10)
    pair.near.send(b"block", [] if encrypted else [bulk], ciphertext=bulk if encrypted else b"")
    assert pair.near.throttled
    assert not pair.near.writable
    arrived, message = _drive(pair, 2.0)
    assert message is None
    assert 0.7 * 2 * (64 << 10) < arrived < 1.05 * 2 * (64 << 10), "a busy machine may send less, but never more"
    pair.near.send(b"after it")
    pair.near.limit(None)
    whole = hear(pair.far)
    assert (bytes(whole.body), bytes(whole.payload)) == (b"block", bulk)
    assert whole.cost_bytes == pair.near.sent_bytes - len(b"after it") - 4 - 32
    assert bytes(hear(pair.far).body) == b"after it"
    assert not pair.near.throttled


def test_a_limit_never_looks_like_a_stalled_connection() -> None:
    listener = listen(timeouts=stalling(0.4))
    pair = Pair(listener, listener.endpoint, streams=2, timeouts=stalling(0.4))
    pair.near.limit(100)  # one part every ten seconds
    pair.near.send(b"block", [bytes(100_000)], spread=True)
    assert _drive(pair, 1.2)[1] is None
    pair.near.send(b"last words", urgent=True)
    words = _drive(pair, 1.0)[1]
    assert words is not None and bytes(words.body) == b"last words", (
        "words in the middle of a message are not part of it"
    )
    pair.near.limit(None)
    assert bytes(hear(pair.far).body) == b"block"
    pair.close()


def test_what_a_limit_held_back_still_leaves_at_the_end(pair: Pair) -> None:
    pair.near.limit(1000)
    pair.near.send(b"block", [bytes(100_000)])
    pair.near.send(b"done")
    leaving = threading.Thread(target=pair.near.close)
    leaving.start()
    assert bytes(hear(pair.far).body) == b"block"
    assert bytes(hear(pair.far).body) == b"done"
    pair.far.close()
    leaving.join()


def test_parts_that_never_end_are_refused(pair: Pair) -> None:
    near = standing(pair.near)
    with pytest.raises(RecordRejected, match="more than a message may have"):
        for _ in range(5):
            near.send(0, RecordKind.PART, bytes(1 << 20))
            with contextlib.suppress(AssertionError):
                hear(pair.far, 5)


def test_a_sender_stops_at_its_credit_and_goes_on_when_it_is_paid_back() -> None:
    listener = listen(window=1 << 20)
    pair = Pair(listener, listener.endpoint)
    sent = 0
    while pair.near.writable:
        pair.near.send(b"block", [bytes(100_000)])
        sent += 1
    assert sent == 11  # the message that begins within the window may end beyond it
    heard = [hear(pair.far) for _ in range(sent)]
    pair.near.wait(0.05)
    assert pair.near.receive() is None
    assert not pair.near.writable
    for incoming in heard:
        pair.far.release(incoming.cost_bytes)
    # Credit comes in several messages, and what acknowledges the sent ones beside it.
    wait_until(lambda: pair.near.receive() is None and pair.near.writable, "credit for more")
    pair.close()


def test_a_peer_that_ignores_its_credit_is_cut_off() -> None:
    listener = listen(window=1 << 20)
    pair = Pair(listener, listener.endpoint)
    pair.near._exchange._send_window = 1 << 40
    for _ in range(7):
        pair.near.send(b"block", [bytes(1 << 20)])
    with pytest.raises(RecordRejected, match="credit"):
        for _ in range(7):
            hear(pair.far)
    pair.close()


def test_streams_share_the_load_and_ordered_messages_stay_in_order() -> None:
    listener = listen(window=1 << 24)
    pair = Pair(listener, listener.endpoint, streams=4)
    for number in range(50):
        pair.near.send(f"bulk {number}".encode(), [bytes(10_000)], spread=True)
        pair.near.send(f"word {number}".encode())
    heard = [bytes(hear(pair.far).body).decode() for _ in range(100)]
    assert [text for text in heard if text.startswith("word")] == [f"word {number}" for number in range(50)]
    assert {text for text in heard if text.startswith("bulk")} == {f"bulk {number}" for number in range(50)}
    pair.close()


def test_the_next_endpoint_is_tried_when_one_refuses() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        listener = listen()
        connector = DataConnector(
            [f"tcp://127.0.0.1:{closed.getsockname()[1]}", listener.endpoint], SECRET, timeout_s=10, timeouts=PATIENT
        )
        near = far = None
        while near is None or far is None:
            near = near or connector.poll(0.05)
            far = far or listener.poll(0.05)
    assert near.peer == listener.endpoint
    near.abort()
    far.abort()


def test_all_ports_taken_is_said() -> None:
    first = listen()
    port = int(first.endpoint.rpartition(":")[2])
    with pytest.raises(HoldfastError, match="every data port"):
        DataListener("127.0.0.1", "127.0.0.1", (port, port), SECRET, timeouts=PATIENT)
    first.close()
