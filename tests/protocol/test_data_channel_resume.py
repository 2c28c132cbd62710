"""A data connection whose TCP connections break goes on where it was, and nobody else gets in between."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast_agent.channel import data_connector, data_records
from holdfast_agent.channel.data_connection import DataConnection
from holdfast_agent.channel.data_connector import DataConnector
from holdfast_agent.channel.data_handshake import PROTOCOL_VERSION, Hello, encode_hello
from holdfast_agent.channel.data_listener import DataListener
from holdfast_agent.errors import ConnectionLost, RecordRejected
from holdfast_agent.model.link import LinkTimeouts
from lab.relay import Relay

SECRET = bytes(range(32))
PORTS = (20000, 29999)
WINDOW = 1 << 20
LINK = LinkTimeouts(silence_s=20, stall_s=20, resume_s=20)
QUICK = LinkTimeouts(silence_s=0.6, stall_s=20, resume_s=20)


class Line:
    """Two ends with a relay between them, driven by one thread; what each hears is noted."""

    def __init__(self, streams: int = 3, near: LinkTimeouts = LINK, far: LinkTimeouts = LINK) -> None:
        listener = DataListener("127.0.0.1", "127.0.0.1", PORTS, SECRET, timeouts=far, window_bytes=WINDOW)
        self.direct = listener.endpoint
        self.relay = Relay(int(listener.endpoint.rpartition(":")[2]))
        endpoints = [self.relay.endpoint, self.direct]
        connector = DataConnector(endpoints, SECRET, streams=streams, timeout_s=10, timeouts=near, window_bytes=WINDOW)
        made: list[DataConnection | None] = [None, None]
        while made[0] is None or made[1] is None:
            made = [made[0] or connector.poll(0.02), made[1] or listener.poll(0.02)]
        self.near, self.far = made[0], made[1]
        self.heard: dict[DataConnection, list[tuple[bytes, bytes]]] = defaultdict(list)
        self.name: bytes = connector._name

    def drive(self, until: Callable[[], bool], patience_s: float = 30.0, release: bool = True) -> None:
        """Let both ends do what is due, as movers do."""
        deadline = time.monotonic() + patience_s
        while not until():
            assert time.monotonic() < deadline, "in vain"
            for end in (self.near, self.far):
                end.wait(0.005)
                while (incoming := end.receive()) is not None:
                    self.heard[end].append((bytes(incoming.body), bytes(incoming.payload)))
                    if release:
                        end.release(incoming.cost_bytes)
                end.check_alive()

    def close(self) -> None:
        self.near.abort()
        self.far.abort()
        self.relay.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_connector, "_ATTEMPT_S", 0.5)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def _say(end: DataConnection, number: int, bulk: bytes) -> None:
    """Words in order, blocks over any stream; every other block as ciphertext."""
    end.send(f"word {number}".encode())
    if number % 2:
        end.send(f"block {number}".encode(), [bulk], spread=True)
    else:
        end.send(f"block {number}".encode(), ciphertext=bulk, spread=True)


def _check(heard: list[tuple[bytes, bytes]], count: int, bulk: bytes) -> None:
    words = [body for body, _ in heard if body.startswith(b"word")]
    assert words == [f"word {number}".encode() for number in range(count)]
    blocks = sorted(body for body, payload in heard if body.startswith(b"block") and payload == bulk)
    assert blocks == sorted(f"block {number}".encode() for number in range(count))
    assert len(heard) == 2 * count, "something came twice, or not as it was sent"


def test_a_line_that_is_reset_again_and_again_delivers_all_once_and_in_order(line: Line) -> None:
    bulk, count, dice = os.urandom(50_000), 150, random.Random(7)
    line.relay.cut_after(100_000)
    resumed = 0
    for number in range(count):
        _say(line.near, number, bulk)
        _say(line.far, number, bulk)
        line.drive(lambda: line.near.writable and line.far.writable)
        if line.near.resumed > resumed:
            resumed = line.near.resumed
            line.relay.cut_after(dice.randrange(3_000_000))
    line.drive(lambda: all(len(line.heard[end]) == 2 * count for end in (line.near, line.far)))
    _check(line.heard[line.near], count, bulk)
    _check(line.heard[line.far], count, bulk)
    assert line.near.resumed >= 4
    for end in (line.near, line.far):
        assert end.resent_bytes <= end.resumed * (WINDOW + 60_000)
        assert end.sent_bytes == sum(36 + len(body) + len(payload) for body, payload in line.heard[line.far])


def test_no_key_meets_a_nonce_twice_however_often_a_line_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[bytes, bytes]] = []

    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, AESGCM(key)

        def encrypt(self, nonce: bytes, *what: Any) -> bytes:
            used.append((self._key, nonce))
            return self._cipher.encrypt(nonce, *what)

        def decrypt(self, *what: Any) -> bytes:
            return self._cipher.decrypt(*what)

    monkeypatch.setattr(data_records, "AESGCM", Watched)
    line = Line()
    bulk = os.urandom(50_000)
    while line.near.resumed < 5:
        before = line.near.resumed
        for number in range(6):
            _say(line.near, number, bulk)
            _say(line.far, number, bulk)
        line.relay.cut()
        line.drive(lambda: line.near.resumed == line.far.resumed > before)  # noqa: B023 - called before the next round
    line.drive(lambda: len(line.heard[line.far]) == len(line.heard[line.near]) == 12 * 5)
    line.close()
    assert line.near.resent_bytes + line.far.resent_bytes > 0
    assert len({key for key, _ in used}) >= 6 * 3 * 2, "each stream and direction of an incarnation"
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("dead", ["silent", "refused", "without a way"])
def test_a_dead_address_that_comes_first_is_left_for_the_next(dead: str) -> None:
    """As a preferred network may be whose link is down: the connection is made by the address after it."""
    listener = DataListener("127.0.0.1", "127.0.0.1", PORTS, SECRET, timeouts=LINK, window_bytes=WINDOW)
    with Relay(int(listener.endpoint.rpartition(":")[2])) as relay:
        relay.freeze() if dead == "silent" else relay.cut(refuse=True)
        first = "tcp://240.0.0.1:20000" if dead == "without a way" else relay.endpoint
        connector = DataConnector(
            [first, listener.endpoint], SECRET, streams=2, timeout_s=20, timeouts=LINK, window_bytes=WINDOW
        )
        made: list[DataConnection | None] = [None, None]
        while made[0] is None or made[1] is None:  # its time-out ends what is in vain
            made = [made[0] or connector.poll(0.02), made[1] or listener.poll(0.02)]
        assert made[0].peer == listener.endpoint
        for end in made:
            assert end is not None
            end.abort()


def test_a_silent_line_is_left_for_the_next_address() -> None:
    line = Line(near=QUICK)
    bulk = os.urandom(30_000)
    line.relay.freeze()
    for number in range(8):
        _say(line.near, number, bulk)
        _say(line.far, number, bulk)
    # The far end has noticed nothing when the near one is back: an old connection that seems to stand is replaced.
    line.drive(lambda: len(line.heard[line.near]) == len(line.heard[line.far]) == 16)
    assert line.near.peer == line.direct
    assert line.near.resumed == line.far.resumed == 1
    _check(line.heard[line.near], 8, bulk)
    _check(line.heard[line.far], 8, bulk)
    line.close()


def test_a_line_whose_movers_are_idle_or_busy_is_not_silent() -> None:
    line = Line(near=QUICK, far=QUICK)
    begun = time.monotonic()
    line.drive(lambda: time.monotonic() - begun > 1.5)
    # A mover that is busy with something else: libzmq's own thread speaks for it.
    asleep = time.monotonic()
    while time.monotonic() - asleep < 1.5:
        line.near.wait(0.02)
        assert line.near.receive() is None
        line.near.check_alive()
    line.drive(lambda: time.monotonic() - asleep > 2)
    assert line.near.resumed == line.far.resumed == 0
    line.close()


def test_a_limit_holds_after_a_break_too(line: Line) -> None:
    line.near.limit(200_000)
    for number in range(4):
        line.near.send(f"block {number}".encode(), [bytes(100_000)], spread=True)
    begun = time.monotonic()
    line.drive(lambda: time.monotonic() - begun > 0.8)
    line.relay.cut()
    line.drive(lambda: len(line.heard[line.far]) == 4)
    took = time.monotonic() - begun
    again = line.near.resent_bytes
    assert again > 0
    assert took > (400_000 + again) / 200_000 - 0.5 - 0.8 * (again / 100_000), "what a break forgives is one message"
    assert took > 1.5
    assert line.near.sent_bytes == 4 * (100_000 + 4 + 7 + 32)


def test_what_is_held_for_sending_again_is_no_more_than_the_window(line: Line) -> None:
    sent = 0
    while line.near.writable:
        line.near.send(b"block", [bytes(100_000)], spread=True)
        sent += 1
    line.drive(lambda: len(line.heard[line.far]) == sent, release=False)
    for _ in range(3):
        before = line.near.resumed
        line.relay.cut()
        line.drive(lambda: line.near.resumed > before)  # noqa: B023 - it is called before the next round
    assert line.near.resent_bytes == 0, "the other end has it all, although it has consumed nothing"
    assert not line.near.writable, "a broken line gives no new credit"
    assert line.near.kept_bytes == 0
    line.far.release(sent * (100_000 + 9 + 32))
    line.drive(lambda: line.near.writable)


def test_what_waits_for_a_slow_peer_is_not_called_congested_and_what_waits_for_the_line_is(line: Line) -> None:
    def fill() -> None:
        while line.near.writable:
            line.near.send(b"block", ciphertext=bytes(50_000), spread=True)

    fill()
    line.drive(lambda: len(line.heard[line.far]) * 50_100 > WINDOW, release=False)
    line.drive(lambda: not line.near.congested, release=False)
    assert not line.near.writable, "the other end has all of it and is not done with it"
    line.far.release(line.far.received_bytes)
    line.drive(lambda: line.near.writable, release=False)
    line.relay.freeze()
    fill()
    assert line.near.congested
    line.near.limit(1000)
    line.near.send(b"word")
    assert line.near.congested, "no credit is left: it is not the limit that it waits for"
    line.relay.cut(refuse=True)
    line.drive(lambda: not line.near.standing)
    assert line.near.congested


def test_nobody_comes_back() -> None:
    line = Line(near=LinkTimeouts(resume_s=0.5), far=LinkTimeouts(resume_s=0.5))
    line.near.abort()
    begun = time.monotonic()
    with pytest.raises(ConnectionLost, match="closed") as caught:
        while True:
            line.far.wait(0.02)
            assert line.far.receive() is None
    assert caught.value.retryable
    assert time.monotonic() - begun > 0.4
    line.close()


def test_a_line_that_breaks_whenever_it_stands_ends_in_time() -> None:
    line = Line(near=LinkTimeouts(resume_s=1.5))
    stop = threading.Event()

    def cut() -> None:
        while not stop.wait(0.02):
            line.relay.cut()

    line.near._opening._endpoints = (line.relay.endpoint,)  # type: ignore[attr-defined]
    breaking = threading.Thread(target=cut)
    breaking.start()
    try:
        with pytest.raises(ConnectionLost):
            line.drive(lambda: False)
    finally:
        stop.set()
        breaking.join()
    line.close()


def test_last_words_arrive_over_a_line_that_breaks_with_them(line: Line) -> None:
    line.relay.freeze()
    line.near.send(b"stored")
    heard: list[bytes] = []

    def listen() -> None:
        while not heard:
            line.far.wait(0.02)
            if (incoming := line.far.receive()) is not None:
                heard.append(bytes(incoming.body))
        while not line.far.part(0.02):
            pass

    listening = threading.Thread(target=listen)
    listening.start()
    assert not line.near.part(0.2)
    line.relay.mend()
    line.relay.cut()
    while not line.near.part(0.05):
        pass
    listening.join()
    assert heard == [b"stored"]


class Stranger:
    """Somebody who reaches the listening port."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(endpoint)

    def say(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    @property
    def answered(self) -> bool:
        return bool(self._socket.poll(0))

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


@pytest.mark.parametrize(
    "what", ["wrong secret", "old incarnation", "this incarnation", "another name", "other streams"]
)
def test_no_hello_but_that_of_the_next_incarnation_is_answered(line: Line, what: str) -> None:
    line.relay.cut()
    line.drive(lambda: line.near.resumed == line.far.resumed == 1)
    number = line.near._opening._incarnations  # type: ignore[attr-defined]
    assert number >= 2
    incarnation = {"old incarnation": 1, "this incarnation": number}.get(what, number + 1)
    name = bytes(16) if what == "another name" else line.name
    streams = 1 if what == "other streams" else 3
    secret = b"w" * 32 if what == "wrong secret" else SECRET
    stranger = Stranger(line.direct)
    stranger.say(encode_hello(Hello(PROTOCOL_VERSION, 0, streams, WINDOW, incarnation, name, os.urandom(32)), secret))
    line.near.send(b"mine")
    line.drive(lambda: len(line.heard[line.far]) == 1)
    begun = time.monotonic()
    line.drive(lambda: time.monotonic() - begun > 0.3)
    assert not stranger.answered
    assert line.near.resumed == line.far.resumed == 1
    stranger.close()


def test_a_hello_without_its_keys_does_not_displace_a_connection(line: Line) -> None:
    """A Hello that was held back by somebody between is authentic, and yet nothing without the secret."""
    stranger = Stranger(line.direct)
    hello = encode_hello(Hello(PROTOCOL_VERSION, 0, 3, WINDOW, 7, line.name, os.urandom(32)), SECRET)
    stranger.say(hello)
    line.drive(lambda: stranger.answered)
    stranger.say(bytes(16), bytes(64))
    for number in range(4):
        line.near.send(f"word {number}".encode())
    line.drive(lambda: len(line.heard[line.far]) == 4)
    assert line.near.resumed == line.far.resumed == 0
    line.near._opening._incarnations = 7  # type: ignore[attr-defined]
    line.relay.cut()
    line.near.send(b"after")
    line.drive(lambda: len(line.heard[line.far]) == 5)
    assert line.far.resumed == 1
    stranger.close()


def test_records_of_an_old_incarnation_are_not_heard(line: Line) -> None:
    line.near.send(b"first")
    line.drive(lambda: len(line.heard[line.far]) == 1)
    old = line.near._life
    assert old is not None
    sealed = [bytes(frame) for frame in old.streams[0].sealer.seal(data_records.RecordKind.MESSAGE, b"\1\0\0\0x")]
    line.relay.cut()
    line.drive(lambda: line.near.resumed == line.far.resumed == 1)
    stranger = Stranger(line.direct)
    stranger.say(*sealed)
    line.near.send(b"second")
    line.drive(lambda: len(line.heard[line.far]) == 2)
    stranger.close()
    assert line.near._life is not None
    line.near._life.wire.send(0, sealed)  # and whoever gets into the new connection with it is found out
    with pytest.raises(RecordRejected):
        line.drive(lambda: False)
