"""Clients of an export that lie, break off, flood or stall: the server goes on, in bounded memory, for all others."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_agent.disks.nbd.protocol import (
    OPTION_MAGIC,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    Command,
    Option,
    Reply,
)
from holdfast_agent.export import server as export_server
from holdfast_agent.export.server import MOST_CLIENTS
from holdfast_agent.model.geometry import Geometry
from lab import repositories as lab
from lab.exports import Export, content_of, exported, store, trees_of
from lab.movers import Site
from lab.nbd_client import Raw

GEOMETRY = Geometry(64 * lab.BLOCK, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in range(0, 64, 2)}
WANT = content_of(BLOCKS, GEOMETRY)
MOST_RSS_BYTES = 220 << 20
"""An exporter at rest takes some 60 MiB; the cache, what one client may have in flight, and room."""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Export]:
    site = Site(tmp_path_factory.mktemp("site"))
    disks = trees_of(store(site, BLOCKS, GEOMETRY))
    with exported(site, disks, writable=True, cache_bytes=16 << 20) as export:
        yield export


def rss_bytes(export: Export) -> int:
    status = Path(f"/proc/{export.mover.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def reads_well(client: Raw, offset: int = 1000, length: int = 200_000) -> bool:
    return client.reads(offset, length) == WANT[offset : offset + length]


@pytest.fixture(autouse=True)
def others_are_unaffected(export: Export) -> Iterator[None]:
    """A client that was there before, and one that comes after; the process is the same, and no larger."""
    with Raw(export) as before:
        before.go()
        yield
        assert reads_well(before)
    with Raw(export) as after:
        after.go()
        assert reads_well(after)
    assert export.mover.process.poll() is None
    assert rss_bytes(export) < MOST_RSS_BYTES


_CONTEXT = struct.pack(">II", 0, 1) + struct.pack(">I", 15) + b"base:allocation"
_option_body = st.one_of(
    st.binary(max_size=64),
    st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=20)).map(lambda b: struct.pack(">I", b[0]) + b[1]),
    st.sampled_from([b"", struct.pack(">IH", 0, 0), _CONTEXT]),
)
_option = st.tuples(
    st.sampled_from([*Option, 0, 4, 11, 2**32 - 1]), _option_body, st.sampled_from([0, 0, 0, 1, -1, 2**31])
)
_edges = st.sampled_from([0, 1, 4095, 1 << 20, GEOMETRY.size_bytes - 1, GEOMETRY.size_bytes, 1 << 62, (1 << 64) - 1])
_request = st.tuples(
    st.integers(0, 2**16 - 1) | st.sampled_from([0, 0, 0, 1, 4, 16]),
    st.sampled_from([0, 3, 4, 5, 6, 7, 8, 2**16 - 1]),  # not WRITE, whose payload has a test of its own
    _edges | st.integers(0, GEOMETRY.size_bytes),
    st.sampled_from([0, 1, 4096, 1 << 20, 1 << 25, 1 << 31, 2**32 - 1]) | st.integers(0, 1 << 16),
)


@given(
    flags=st.sampled_from([3, 3, 3, 0, 1, 2**32 - 1]),
    options=st.lists(_option, max_size=6),
    tail=st.binary(max_size=40),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_said_in_the_handshake(
    export: Export, flags: int, options: list[tuple[int, bytes, int]], tail: bytes
) -> None:
    with Raw(export) as client:
        client.exactly(18)
        with contextlib.suppress(ConnectionError):
            client.send(struct.pack(">I", flags))
            for number, body, lie in options:
                client.send(struct.pack(">QII", OPTION_MAGIC, number, (len(body) + lie) % 2**32), body)
            client.send(tail)
            client.socket.shutdown(socket.SHUT_WR)
        assert client.ended()


@given(requests=st.lists(_request, min_size=1, max_size=8), tail=st.binary(max_size=40), structured=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_for(
    export: Export, requests: list[tuple[int, int, int, int]], tail: bytes, structured: bool
) -> None:
    """What changes the disk is left out of this one's commands by flags that it does not know, or is a zeroing of what
    the checks do not read."""
    with Raw(export) as client:
        client.go(structured)
        for cookie, (flags, command, offset, length) in enumerate(requests):
            if command in (Command.TRIM, Command.WRITE_ZEROES):
                flags |= 1 << 9
            client.request(command, offset, length, flags, cookie)
        with contextlib.suppress(ConnectionError):
            client.send(tail)
            client.socket.shutdown(socket.SHUT_WR)
        assert client.ended()


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "number"),
    [
        (Command.READ, 0, 0, 0, 22),
        (Command.READ, GEOMETRY.size_bytes, 1, 0, 22),
        (Command.READ, (1 << 64) - 1, 1, 0, 22),
        (Command.READ, 0, (32 << 20) + 1, 0, 22),
        (Command.READ, 0, 1, 1 << 3, 22),
        (Command.WRITE_ZEROES, GEOMETRY.size_bytes - 1, 2, 0, 28),
        (Command.TRIM, 0, 2**32 - 1, 0, 28),
        (Command.BLOCK_STATUS, 0, 4096, 0, 22),  # which was not negotiated
        (Command.FLUSH, 1, 0, 0, 22),
        (9, 0, 1, 0, 22),
    ],
)
@pytest.mark.parametrize("structured", [True, False])
def test_a_wrong_request_gets_its_error_and_the_next_its_answer(
    export: Export, command: int, offset: int, length: int, flags: int, number: int, structured: bool
) -> None:
    with Raw(export) as client:
        client.go(structured)
        client.request(command, offset, length, flags)
        assert client.error() == number
        client.request(Command.READ, GEOMETRY.size_bytes, 1)
        assert client.error() == 22


def test_a_write_that_is_too_large_is_not_waited_for(export: Export) -> None:
    with Raw(export) as client:
        client.go()
        client.request(Command.WRITE, 0, (32 << 20) + 1)
        assert client.ended()


def test_a_write_beyond_the_end_is_read_and_refused(export: Export) -> None:
    with Raw(export) as client:
        client.go()
        client.request(Command.WRITE, GEOMETRY.size_bytes - 100, 1 << 20)
        client.send(bytes(1 << 20))
        assert client.error() == 28
        assert reads_well(client)


def test_writes_that_break_off_change_nothing(export: Export) -> None:
    for sent in (0, 1, 70_000):
        with Raw(export) as client:
            client.go()
            client.request(Command.WRITE, 0, 100_000)
            client.send(b"!" * sent)
    with Raw(export) as client:
        client.go()
        assert reads_well(client, 0, 100_000)


def test_small_reads_are_answered_whatever_stands_half_sent_behind_them(tmp_path: Path) -> None:
    """What is cold is taken up first and carried out when nothing more has come: nobody may wait in between."""
    site = Site(tmp_path)
    disks = trees_of(store(site, BLOCKS, GEOMETRY))
    large = struct.pack(">IHHQQI", REQUEST_MAGIC, 0, Command.READ, 99, 0, 32 << 20)  # beyond the end, but as heavy
    write = struct.pack(">IHHQQI", REQUEST_MAGIC, 0, Command.WRITE, 98, 0, 4096)
    with exported(site, disks, writable=True) as export, Raw(export) as client:
        client.go(structured=False)
        for turn, (behind, rest, answers) in enumerate(
            [(b"", b"", 0), (large[:10], large[10:], 1), (write, bytes(4096), 1), (write + b"1", b"1" * 4095, 1)]
        ):
            places = {block: block * lab.BLOCK + 5000 * turn for block in range(8, 60)}
            reads = [struct.pack(">IHHQQI", REQUEST_MAGIC, 0, Command.READ, *whole, 4096) for whole in places.items()]
            client.send(*reads, behind)
            for _ in places:
                magic, error, block = struct.unpack(">IIQ", client.exactly(16))
                assert (magic, error) == (SIMPLE_REPLY_MAGIC, 0)
                assert client.exactly(4096) == WANT[places[block] :][:4096]
            client.send(rest)
            assert len(client.exactly(16 * answers)) == 16 * answers


def test_a_client_that_takes_no_replies_holds_nobody_but_itself(export: Export) -> None:
    """It asks for a gigabyte; what is kept for it is bounded, and it is not read from any further."""
    with Raw(export, timeout_s=2.0) as client:
        client.go()
        asked = 0
        with contextlib.suppress(TimeoutError):
            for asked in range(100_000):
                client.request(Command.READ, 0, 4 << 20, cookie=asked)
        assert 1 < asked < 99_999
        with Raw(export) as other:
            other.go()
            assert reads_well(other)


def test_more_clients_than_there_is_room_for_are_sent_away(export: Export) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(export)) for _ in range(MOST_CLIENTS + 1 + 8)]  # it has one disk
        away = 0
        for client in clients:
            try:
                client.exactly(18)
            except (EOFError, ConnectionError):
                away += 1
        assert away == 9  # one was there before
    while True:  # those that left hold their places for a moment yet
        with Raw(export) as client, contextlib.suppress(EOFError, ConnectionError):
            client.go()
            return


def test_a_client_that_lets_its_handshake_drip_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limits of time, in this process and with shorter ones: for the handshake as a whole, and within a request."""
    monkeypatch.setattr(export_server, "HANDSHAKE_S", 1.0)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "nbd.sock"))
    listener.listen()
    server = export_server.Server(listener, {}, "", None, stall_s=0.5)

    class Here:
        socket = tmp_path / "nbd.sock"

    here = Here()
    try:
        with Raw(here) as client:
            client.exactly(18)
            with pytest.raises(ConnectionError):
                while True:
                    client.send(b"\0")
                    time.sleep(0.3)  # less than after which silence is noticed
        with Raw(here) as client:
            client.greet()
            assert client.ended()  # it says nothing more at all
    finally:
        assert server.close()


def test_the_order_in_a_handshake_is_kept_to(export: Export) -> None:
    name = struct.pack(">I", 0)
    with Raw(export) as client:
        client.greet()
        assert client.option(Option.STARTTLS)[-1][0] == Reply.ERROR_POLICY
        query = name + struct.pack(">I", 1) + struct.pack(">I", 15) + b"base:allocation"
        assert client.option(Option.SET_META_CONTEXT, query)[-1][0] == Reply.ERROR_INVALID  # no structured replies yet
        assert client.option(Option.LIST, b"x")[-1][0] == Reply.ERROR_INVALID
        assert client.option(Option.LIST_META_CONTEXT, name + struct.pack(">I", 0))[0][1][4:] == b"base:allocation"
        assert client.option(99)[-1][0] == Reply.ERROR_UNSUPPORTED
        assert (
            client.option(Option.INFO, struct.pack(">I", 5) + b"other" + b"\0\0")[-1][0] == Reply.ERROR_UNKNOWN_EXPORT
        )
        assert client.option(Option.ABORT) == [(Reply.ACK, b"")]
        assert client.ended()
    with Raw(export) as client:
        client.greet()
        with pytest.raises((EOFError, ConnectionError)):
            for _ in range(1000):
                client.option(Option.LIST)
