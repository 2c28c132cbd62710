"""NBD servers that lie, break off or say nothing: always a typed error in time, never a wrong byte, never a hang."""

from __future__ import annotations

import contextlib
import random
import struct
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast_agent.disks import patience
from holdfast_agent.disks.disk import DiskExtent, ReadableDisk, changed_extents
from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.errors import DiskChanged, DiskDenied, DiskShrunk, DiskUnreadable, DiskUnwritable
from lab.contents import assert_same
from lab.disks import host_for
from lab.nbd_peer import (
    ACK,
    ALLOCATION,
    BITMAP,
    BLOCK_STATUS,
    CONTEXT,
    GREETING,
    INFO,
    META_CONTEXT,
    MULTI_CONN,
    OPTION_CONTEXT,
    OPTION_GO,
    OPTION_STRUCTURED,
    READ,
    SIZE,
    WRITE,
    Answer,
    Peer,
    Request,
    chunk,
    data_chunk,
    disk_bytes,
    export_info,
    option_reply,
    right_answer,
    serving,
    status_chunk,
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt; tests of reconnecting allow more."""
    monkeypatch.setattr(patience, "PAUSES_S", ())


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with serving(Peer(tmp_path / "nbd.sock")) as peer:
        yield peer


def opened(peer: Peer, timeout_s: float = 20.0, options: str = "") -> contextlib.closing[ReadableDisk]:
    host = host_for(peer.path.parent, timeout_s=timeout_s)
    return contextlib.closing(open_disk(f"nbd+unix:{peer.path}{options}", host))


def read(disk: ReadableDisk, offset: int = 4096, length: int = 8192) -> bytes:
    buffer = bytearray(length)
    disk.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_the_peer_is_right_unless_told_otherwise(peer: Peer) -> None:
    with opened(peer) as disk:
        assert_same(read(disk), disk_bytes(4096, 8192))
        assert [(extent.start, extent.length, extent.data) for extent in disk.extents()] == [
            (0, 4096, True),
            (4096, SIZE - 4096, False),
        ]


def _sizes(minimum: int, preferred: int, maximum: int) -> bytes:
    return option_reply(OPTION_GO, INFO, struct.pack(">HIII", 3, minimum, preferred, maximum))


_EXPORT = option_reply(OPTION_GO, INFO, export_info())
_GO = option_reply(OPTION_GO, ACK)
_SET = option_reply(OPTION_CONTEXT, ACK)
_CONTEXT = option_reply(OPTION_CONTEXT, META_CONTEXT, struct.pack(">I", 7) + b"base:allocation")


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 18, GREETING[:16] + b"\0\0", GREETING[:8] + bytes(10)],
)
def test_what_is_no_fixed_newstyle_server(tmp_path: Path, greeting: bytes) -> None:
    with serving(Peer(tmp_path / "nbd.sock", greeting=greeting)) as peer, pytest.raises(DiskUnreadable, match="NBD"):
        opened(peer)


@pytest.mark.parametrize(
    ("option", "replies"),
    [
        (OPTION_STRUCTURED, [option_reply(OPTION_STRUCTURED, ACK, magic=1)]),
        (OPTION_STRUCTURED, [option_reply(OPTION_GO, ACK)]),
        (OPTION_CONTEXT, [option_reply(OPTION_CONTEXT, META_CONTEXT, b"\0\0\0"), _SET]),
        (OPTION_CONTEXT, [option_reply(OPTION_CONTEXT, META_CONTEXT, b"\0\0\0\1other:context"), _SET]),
        (OPTION_CONTEXT, [_CONTEXT, _CONTEXT, _SET]),
        (OPTION_GO, [_GO]),
        (OPTION_GO, [option_reply(OPTION_GO, INFO), _GO]),
        (OPTION_GO, [option_reply(OPTION_GO, INFO, export_info()[:-1]), _GO]),
        (OPTION_GO, [option_reply(OPTION_GO, INFO, export_info(1 << 63)), _GO]),
        (OPTION_GO, [_EXPORT, _sizes(0, 4096, 4096), _GO]),
        (OPTION_GO, [_EXPORT, _sizes(3, 4096, 4096), _GO]),
        (OPTION_GO, [_EXPORT, _sizes(1 << 17, 1 << 17, 1 << 17), _GO]),
        (OPTION_GO, [_EXPORT, _sizes(4096, 512, 4096), _GO]),
        (OPTION_GO, [_EXPORT, _sizes(4096, 4096, 512), _GO]),
        (OPTION_GO, [_EXPORT, option_reply(OPTION_GO, INFO, b"\0\3" + bytes(11)), _GO]),
        (OPTION_GO, [option_reply(OPTION_GO, (1 << 31) | 99, b"go\x1b[31m away")]),
    ],
)
def test_lies_of_the_negotiation(tmp_path: Path, option: int, replies: list[bytes]) -> None:
    with serving(Peer(tmp_path / "nbd.sock", options={option: replies})) as peer:
        with pytest.raises(DiskUnreadable, match="NBD") as caught:
            opened(peer)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([struct.pack(">QIII", 0x3E889045565A9, OPTION_STRUCTURED, ACK, 1 << 31)], "malformed reply"),
        ([option_reply(OPTION_STRUCTURED, INFO)] * 1000, "too many replies"),
    ],
)
def test_neither_a_long_reply_nor_many_of_them_are_waited_for(
    tmp_path: Path, replies: list[bytes], reason: str
) -> None:
    with (
        serving(Peer(tmp_path / "nbd.sock", options={OPTION_STRUCTURED: replies})) as peer,
        pytest.raises(DiskUnreadable, match=reason),
    ):
        opened(peer)


@pytest.mark.parametrize(("error", "says"), [((1 << 31) | 5, "wants TLS"), ((1 << 31) | 2, "refuses: not you")])
def test_a_server_that_refuses_says_why(tmp_path: Path, error: int, says: str) -> None:
    options = {OPTION_GO: [option_reply(OPTION_GO, error, b"not you")]}
    with serving(Peer(tmp_path / "nbd.sock", options=options)) as peer, pytest.raises(DiskDenied, match=says):
        opened(peer)


def _lies() -> dict[str, Answer]:
    def says(*parts: object) -> Answer:
        def answer(request: Request) -> Iterable[bytes]:
            return [part(request) if callable(part) else part for part in parts]  # type: ignore[misc]

        return answer

    half = 4096
    return {
        "nothing, and closes": lambda request: (_ for _ in ()).throw(ConnectionResetError),
        "no magic": says(bytes(20)),
        "another magic": says(lambda r: bytes(4) + data_chunk(r, r.offset, r.length)[4:]),
        "another cookie": says(lambda r: chunk(r._replace(cookie=r.cookie + 1), 0)),
        "an unknown kind": says(lambda r: chunk(r, 99, bytes(8))),
        "an empty chunk with bytes": says(lambda r: chunk(r, 0, b"x")),
        "data without an offset": says(lambda r: chunk(r, 1, b"1234")),
        "no data": says(lambda r: chunk(r, 1, struct.pack(">Q", r.offset))),
        "data before the range": says(lambda r: data_chunk(r, r.offset - 1, r.length)),
        "data beyond the range": says(lambda r: data_chunk(r, r.offset, r.length + 1)),
        "data far beyond": says(lambda r: data_chunk(r, (1 << 64) - 8, 8)),
        "as much as asked, but half a range on": says(lambda r: data_chunk(r, r.offset + half, r.length)),
        "an endless length": says(lambda r: chunk(r, 1, struct.pack(">Q", r.offset), length=(1 << 32) - 1)),
        "half of it": says(lambda r: data_chunk(r, r.offset, half)),
        "nothing at all": says(lambda r: chunk(r, 0)),
        "one half twice": says(
            lambda r: data_chunk(r, r.offset, half, done=False), lambda r: data_chunk(r, r.offset, half)
        ),
        "a part twice": says(
            lambda r: data_chunk(r, r.offset, half, done=False), lambda r: data_chunk(r, r.offset + half - 1, half)
        ),
        "too much": says(
            lambda r: data_chunk(r, r.offset, r.length, done=False), lambda r: data_chunk(r, r.offset, half)
        ),
        "a hole of another length": says(lambda r: chunk(r, 2, struct.pack(">QI", r.offset, r.length + 1))),
        "a hole elsewhere": says(lambda r: chunk(r, 2, struct.pack(">QI", 0, r.length))),
        "a malformed hole": says(lambda r: chunk(r, 2, struct.pack(">QQ", r.offset, r.length))),
        "an error cut short": says(lambda r: chunk(r, 32769, b"\0\0\0\5")),
        "an error with a lying text": says(lambda r: chunk(r, 32769, struct.pack(">IH", 5, 999))),
        "an error that is none": says(lambda r: chunk(r, 32769, struct.pack(">IH", 0, 0))),
        "an error with endless text": says(lambda r: chunk(r, 32769, length=1 << 31)),
        "a simple reply": says(lambda r: struct.pack(">IIQ", 0x67446698, 0, r.cookie) + bytes(r.length)),
        "a block status": says(lambda r: status_chunk(r, (4096, 0))),
    }


@pytest.mark.parametrize("lie", _lies().values(), ids=_lies())
def test_lies_in_answer_to_a_read(tmp_path: Path, lie: Answer) -> None:
    with serving(Peer(tmp_path / "nbd.sock", answer=lie)) as peer, opened(peer) as disk:
        with pytest.raises(DiskUnreadable) as caught:
            read(disk)
        assert caught.value.fields["offset_bytes"] == 4096


def test_a_reply_given_twice_spoils_the_connection_and_not_the_data(tmp_path: Path) -> None:
    def twice(request: Request) -> Iterable[bytes]:
        yield from (data_chunk(request, request.offset, request.length),) * 2

    with serving(Peer(tmp_path / "nbd.sock", answer=twice)) as peer, opened(peer) as disk:
        assert_same(read(disk), disk_bytes(4096, 8192))
        with pytest.raises(DiskUnreadable, match="not asked"):
            read(disk)


@pytest.mark.parametrize(
    "lie",
    [
        lambda r: [chunk(r, 0)],
        lambda r: [chunk(r, 5, struct.pack(">I", 7))],
        lambda r: [chunk(r, 5, struct.pack(">III", 7, 4096, 0)[:-1])],
        lambda r: [status_chunk(r, (4096, 0), (0, 0))],
        lambda r: [status_chunk(r, (4096, 0), context=8)],
        lambda r: [status_chunk(r, (4096, 0), done=False), status_chunk(r, (4096, 0))],
        lambda r: [data_chunk(r, 0, 512)],
        lambda r: [struct.pack(">IIQ", 0x67446698, 0, r.cookie)],
    ],
)
def test_lies_in_answer_to_a_block_status(tmp_path: Path, lie: Answer) -> None:
    with serving(Peer(tmp_path / "nbd.sock", answer=lie)) as peer, opened(peer) as disk, pytest.raises(DiskUnreadable):
        list(disk.extents())


def test_no_memory_is_taken_for_a_block_status_without_end(tmp_path: Path) -> None:
    def endless(request: Request) -> Iterable[bytes]:
        return [chunk(request, 5, length=(1 << 30) + 4)]

    with (
        serving(Peer(tmp_path / "nbd.sock", answer=endless)) as peer,
        opened(peer) as disk,
        pytest.raises(DiskUnreadable, match="malformed block status"),
    ):
        list(disk.extents())


def test_a_hole_that_does_not_say_that_it_is_zeros_is_read(tmp_path: Path) -> None:
    """The four states of ``base:allocation``: data, hole, zeros, and both."""

    def told(request: Request) -> Iterable[bytes]:
        return [status_chunk(request, (4096, 0), (4096, 1), (4096, 2), (request.length, 3))]

    with serving(Peer(tmp_path / "nbd.sock", answer=told)) as peer, opened(peer) as disk:
        assert [extent.data for extent in disk.extents()] == [True, True, False, False]


def test_runs_that_reach_beyond_the_disk_are_cut(tmp_path: Path) -> None:
    most = (1 << 32) - 1

    def beyond(request: Request) -> Iterable[bytes]:
        yield status_chunk(request, (4096, 0), (most, 3), (most, 0), done=False)
        yield status_chunk(request, (most, 1), (most, 1), context=CONTEXT + 1)

    peer = Peer(tmp_path / "nbd.sock", answer=beyond, contexts=lambda _: (ALLOCATION, BITMAP))
    with serving(peer), opened(peer, options="?bitmap=since") as disk:
        assert [(extent.start, extent.length) for extent in disk.extents()] == [(0, 4096), (4096, SIZE - 4096)]
        assert list(changed_extents(disk)) == [
            DiskExtent(0, 4096, data=True),
            DiskExtent(4096, SIZE - 4096, data=False),
        ]


def test_a_server_that_comes_back_without_the_bitmap_is_not_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that it has not told by then would count as unchanged."""
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))

    def dies(request: Request) -> Iterable[bytes]:
        if peer.connections == 1:
            raise ConnectionResetError
        return right_answer(request)

    peer = Peer(
        tmp_path / "nbd.sock",
        answer=dies,
        contexts=lambda number: (ALLOCATION,) if number else (ALLOCATION, BITMAP),
    )
    with serving(peer), opened(peer, options="?bitmap=since") as disk, pytest.raises(DiskChanged):
        list(changed_extents(disk))


def test_a_conversation_that_ends_at_any_byte(tmp_path: Path) -> None:
    """Read and status on one connection, cut after each byte that the server says."""

    def converse(disk: ReadableDisk) -> None:
        assert read(disk, 512, 16) == disk_bytes(512, 16)
        assert sum(extent.length for extent in disk.extents()) == SIZE

    with serving(Peer(tmp_path / "whole.sock")) as peer, opened(peer) as disk:
        converse(disk)
        whole = peer.sent
    with serving(Peer(tmp_path / "nbd.sock")) as peer:
        for end in range(1, whole):
            peer.budget = [end]
            with pytest.raises(DiskUnreadable), opened(peer) as disk:
                converse(disk)


@pytest.mark.parametrize("answer", [lambda r: (), lambda r: iter(lambda: chunk(r, 0, done=False), None)])
def test_silence_and_endless_chatter_end_in_time(tmp_path: Path, answer: Answer) -> None:
    peer = Peer(tmp_path / "nbd.sock", answer=answer)
    with serving(peer), opened(peer, timeout_s=1.0) as disk, pytest.raises(DiskUnreadable):
        read(disk)


def test_a_reply_that_drips_ends_in_time(tmp_path: Path) -> None:
    over = threading.Event()

    def drips(request: Request) -> Iterable[bytes]:
        for byte in data_chunk(request, request.offset, request.length):
            yield bytes([byte])
            if over.wait(0.1):
                return

    with serving(Peer(tmp_path / "nbd.sock", answer=drips)) as peer, opened(peer, timeout_s=1.0) as disk:
        with pytest.raises(DiskUnreadable):
            read(disk)
        over.set()


def test_a_negotiation_that_drips_ends_in_time(tmp_path: Path) -> None:
    """Each reply is in time, and there is no end of them."""
    over = threading.Event()
    drips = iter(lambda: b"" if over.wait(0.1) else option_reply(OPTION_STRUCTURED, INFO), b"")
    with serving(Peer(tmp_path / "nbd.sock", options={OPTION_STRUCTURED: drips})) as peer:
        with pytest.raises(DiskUnreadable) as caught:
            opened(peer, timeout_s=1.0)
        over.set()
    assert "too many" not in str(caught.value), "only their number was bounded"


def test_replies_of_many_requests_in_any_order_and_mixed(tmp_path: Path) -> None:
    """Four threads share one connection; the server answers all four backwards, their chunks interleaved."""
    waiting: list[Request] = []

    def backwards(request: Request) -> Iterable[bytes]:
        waiting.append(request)
        if len(waiting) < 4:
            return []
        requests = list(reversed(waiting))
        waiting.clear()
        replies = [list(right_answer(request)) for request in requests]
        return [reply[half] for half in range(2) for reply in replies]

    with serving(Peer(tmp_path / "nbd.sock", answer=backwards)) as peer, opened(peer) as disk:
        for start in range(0, SIZE, SIZE // 4):
            with ThreadPoolExecutor(4) as threads:
                places = [start + thread * 16384 for thread in range(4)]
                found = list(threads.map(lambda place: read(disk, place, 16384), places))
            assert_same(found, [disk_bytes(place, 16384) for place in places])


def test_a_buffer_is_left_alone_once_its_read_has_failed(tmp_path: Path) -> None:
    """One thread's read times out while another receives; what comes late must not reach the first one's buffer."""
    answered = threading.Event()
    asked: list[Request] = []

    def late(request: Request) -> Iterator[bytes]:
        asked.append(request)
        if len(asked) == 2:
            answered.wait(60)
            for request in asked:
                yield data_chunk(request, request.offset, request.length)

    with serving(Peer(tmp_path / "nbd.sock", answer=late)) as peer, opened(peer, timeout_s=1.0) as disk:
        buffers = [bytearray(8192), bytearray(8192)]

        def fails(number: int) -> bool:
            with pytest.raises(DiskUnreadable):
                disk.read_into(number * 8192, memoryview(buffers[number]))
            buffers[number][:] = b"\xee" * 8192
            return True

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(fails, range(2))) == [True, True]
        answered.set()
    assert buffers == [b"\xee" * 8192] * 2


@pytest.mark.parametrize("end", [180, 400, 4096, 9000])
def test_a_read_goes_on_over_a_new_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))
    with serving(Peer(tmp_path / "nbd.sock", budget=[end, None])) as peer, opened(peer) as disk:
        assert_same(read(disk, 0, 16384), disk_bytes(0, 16384))
        assert peer.connections == 2


def test_a_server_that_shuts_down_is_asked_again_over_a_new_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))
    with serving(Peer(tmp_path / "nbd.sock")) as peer:

        def shutting_down(request: Request) -> Iterable[bytes]:
            if peer.connections == 1:
                return [chunk(request, 32769, struct.pack(">IH", 108, 0))]
            return right_answer(request)

        peer.answer = shutting_down
        with opened(peer) as disk:
            assert_same(read(disk), disk_bytes(4096, 8192))


@pytest.mark.parametrize(
    ("later", "error"),
    [(export_info(SIZE // 2), DiskShrunk), (export_info(SIZE * 2), DiskChanged), (export_info(SIZE, 3), DiskChanged)],
)
def test_another_export_under_the_same_name_is_never_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: bytes, error: type[Exception]
) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))
    peer = Peer(tmp_path / "nbd.sock", budget=[400, None], info=lambda number: later if number else export_info())
    with serving(peer), opened(peer) as disk, pytest.raises(error):
        read(disk)


def test_several_connections_where_the_server_allows_them_and_one_where_it_takes_no_more(tmp_path: Path) -> None:
    several = Peer(tmp_path / "several.sock", info=lambda _: export_info(flags=1 | MULTI_CONN))
    with serving(several), opened(several) as disk:
        assert (read(disk), several.connections) == (disk_bytes(4096, 8192), 2)
    one = Peer(tmp_path / "one.sock", info=lambda _: export_info(flags=1 | MULTI_CONN), budget=[None, 18])
    with serving(one), opened(one) as disk:
        assert (read(disk), one.connections) == (disk_bytes(4096, 8192), 2)


def test_what_two_threads_want_goes_over_two_connections(tmp_path: Path) -> None:
    """The server answers the first only when it has heard the second, and meanwhile reads no more of its connection."""
    first, second = threading.Event(), threading.Event()

    def together(request: Request) -> Iterable[bytes]:
        (second if first.is_set() else first).set()
        assert second.wait(20)
        return right_answer(request)

    peer = Peer(tmp_path / "nbd.sock", answer=together, info=lambda _: export_info(flags=1 | MULTI_CONN))
    with serving(peer), opened(peer) as disk, ThreadPoolExecutor(1) as thread:
        other = thread.submit(read, disk, 0, 4096)
        assert first.wait(20)
        assert_same(read(disk, 4096, 4096), disk_bytes(4096, 4096))
        assert_same(other.result(), disk_bytes(0, 4096))


def test_a_server_that_dies_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))
    monkeypatch.setattr("holdfast_agent.disks.nbd.export._MAX_RECONNECTIONS", 3)

    def once(request: Request) -> Iterable[bytes]:
        yield from right_answer(request)
        raise ConnectionResetError

    with serving(Peer(tmp_path / "nbd.sock", answer=once)) as peer, opened(peer) as disk:
        for _ in range(4):
            assert_same(read(disk), disk_bytes(4096, 8192))
        with pytest.raises(DiskUnreadable):
            read(disk)
        assert peer.connections == 4


@pytest.mark.parametrize("body", [struct.pack(">IH", 5, 0), struct.pack(">IH", 0, 0)])
def test_a_write_whose_error_has_no_number_is_no_success(tmp_path: Path, body: bytes) -> None:
    with serving(Peer(tmp_path / "nbd.sock", answer=lambda r: [chunk(r, 32769, body)])) as peer:
        target = open_target(f"nbd+unix:{peer.path}", host_for(tmp_path), SIZE, create=False, overwrite=True)
        with pytest.raises(DiskUnwritable):
            target.write(0, b"x" * 512)
        target.abort()


def test_a_write_is_never_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.0, 0.0))

    def dies(request: Request) -> Iterable[bytes]:
        raise ConnectionResetError

    with serving(Peer(tmp_path / "nbd.sock", answer=dies)) as peer:
        target = open_target(f"nbd+unix:{peer.path}", host_for(tmp_path), SIZE, create=False, overwrite=True)
        for _ in range(2):
            with pytest.raises(DiskUnwritable):
                target.write(0, b"x" * 512)
        target.abort()
        assert peer.connections == 1
        assert [(request.command, request.payload) for request in peer.requests] == [(WRITE, b"x" * 512)]


def test_many_threads_over_connections_that_break_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks when, each read has its own bytes: no reply goes to a buffer that is used for something else."""
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,) * 30)
    rng = random.Random(6)
    budget: list[int | None] = [rng.randrange(10_000, 300_000) for _ in range(60)]
    peer = Peer(tmp_path / "nbd.sock", budget=[*budget, None], info=lambda _: export_info(flags=1 | MULTI_CONN))
    whole = disk_bytes(0, SIZE)

    def reads(seed: int) -> int:
        rng, buffer = random.Random(seed), bytearray(65536)
        for _ in range(60):
            length = rng.randrange(1, 65536)
            offset = rng.randrange(SIZE - length)
            view = memoryview(buffer)[:length]
            disk.read_into(offset, view)
            assert_same(view, whole[offset : offset + length])
        return 60

    with serving(peer), opened(peer) as disk, ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(reads, range(6))) == 360
        assert peer.connections > 10, "nothing broke"


_NOT_STRUCTURED = {OPTION_STRUCTURED: [option_reply(OPTION_STRUCTURED, (1 << 31) | 1)]}


def test_a_server_that_speaks_no_structured_replies_can_be_read(tmp_path: Path) -> None:
    def simple(request: Request) -> Iterable[bytes]:
        assert request.command == READ
        yield struct.pack(">IIQ", 0x67446698, 0, request.cookie) + disk_bytes(request.offset, request.length)

    with serving(Peer(tmp_path / "nbd.sock", options=_NOT_STRUCTURED, answer=simple)) as peer, opened(peer) as disk:
        assert_same(read(disk), disk_bytes(4096, 8192))
        assert [(extent.length, extent.data) for extent in disk.extents()] == [(SIZE, True)]
        assert BLOCK_STATUS not in [request.command for request in peer.requests]


def test_structured_replies_that_were_not_agreed_on_are_refused(tmp_path: Path) -> None:
    with (
        serving(Peer(tmp_path / "nbd.sock", options=_NOT_STRUCTURED)) as peer,
        opened(peer) as disk,
        pytest.raises(DiskUnreadable, match="magic"),
    ):
        read(disk)
