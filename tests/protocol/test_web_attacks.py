"""Web servers that lie, break off, are busy or have another file: never a wrong byte, never a hang."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from holdfast_agent.disks import patience
from holdfast_agent.disks.disk import ReadableDisk, WritableDisk
from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.errors import DiskChanged, DiskDenied, DiskNotFound, DiskShrunk, DiskUnreadable, DiskUnwritable
from holdfast_agent.model.disk_access import DiskAccess
from lab.contents import assert_same
from lab.disks import host_for
from lab.web_peer import SIZE, TAG, Answer, Peer, Request, disk_bytes, head, right_answer, serving


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))


def opened(peer: Peer, folder: Path, *access: DiskAccess, timeout_s: float = 20.0) -> closing[ReadableDisk]:
    return closing(open_disk(f"{peer.origin}/disk?x=%20", host_for(folder, peer.origin, timeout_s=timeout_s), access))


def read(disk: ReadableDisk, start: int = 4096, end: int = 12288) -> bytes:
    buffer = bytearray(end - start)
    disk.read_into(start, memoryview(buffer))
    return bytes(buffer)


def once_open(answer: Answer) -> Answer:
    """Right when the disk is opened, then ``answer``."""
    return lambda request: answer(request) if request.number else right_answer(request)


def but(**headers: object) -> Answer:
    return lambda request: right_answer(request, **headers)


def test_reads_stay_on_one_connection_and_are_pinned(tmp_path: Path) -> None:
    with serving() as peer, opened(peer, tmp_path) as disk:
        assert disk.size_bytes == SIZE
        for start in (0, 4096, SIZE - 4096):
            assert_same(read(disk, start, start + 4096), disk_bytes(start, start + 4096))
        assert peer.connections == 1
        assert [request.headers.get("if-range") for request in peer.requests] == [None] + ['"first"'] * 3
        assert {request.target for request in peer.requests} == {"/disk?x=%20"}


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: [b"220 mail.example ESMTP\r\n\r\n"],
        lambda request: [],
        lambda request: [head("206 Partial Content", Content_Length=1) + b"x"],
        lambda request: [head("200 OK", Content_Length=SIZE) + bytes(SIZE)],
        lambda request: [head("304 Not Modified")],
        but(Content_Range=None),
        but(Content_Range="bytes 0-0/*"),
        but(Content_Range="bytes 0-0/"),
        but(Content_Range="bytes */1"),
        but(Content_Range="bytes 1-1/4096"),
        but(Content_Range="bytes 0-0/99999999999999999999999"),
        but(Content_Range="octets 0-0/4096"),
        but(Content_Length=2),
        but(Content_Encoding="gzip"),
        lambda request: [head("206 Partial Content", **{f"x{number}": 1 for number in range(1000)})],
        lambda request: [b"HTTP/1.1 206 " + b"x" * (1 << 20)],
    ],
)
def test_lies_when_a_disk_is_opened(tmp_path: Path, answer: Answer) -> None:
    def served(request: Request) -> Iterable[bytes]:
        yield from answer(request)
        raise ConnectionResetError

    with serving(served) as peer, pytest.raises(DiskUnreadable):
        opened(peer, tmp_path)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (but(Content_Range=f"bytes 0-8191/{SIZE}"), DiskUnreadable),
        (but(Content_Range=f"bytes 4096-12286/{SIZE}"), DiskUnreadable),
        (but(Content_Range=f"bytes 4096-12288/{SIZE}"), DiskUnreadable),
        (but(Content_Length=8191), DiskUnreadable),
        (but(Content_Range="bytes 4096-12287/65536"), DiskShrunk),
        (but(Content_Range=f"bytes 4096-12287/{2 * SIZE}"), DiskChanged),
        (but(ETag='"second"'), DiskChanged),
        (but(ETag=None), DiskChanged),
        (but(Last_Modified="Thu, 01 Jan 1970 00:00:00 GMT"), DiskChanged),
        (lambda request: [head("200 OK", ETag='"second"', Content_Length=8192) + bytes(8192)], DiskChanged),
        (lambda request: [head("200 OK", ETag=TAG, Content_Length=0)], DiskUnreadable),
        (lambda request: [head("416 No", Content_Range="bytes */1000", Content_Length=0)], DiskShrunk),
        (lambda request: [head("404 Not Found", Content_Length=0)], DiskNotFound),
        (lambda request: [head("403 Forbidden", Content_Length=0)], DiskDenied),
        (lambda request: [head("302 Found", Location="/other", Content_Length=0)], DiskUnreadable),
        (lambda request: [head("503 Busy", Content_Length=0)], DiskUnreadable),
        (lambda request: [head("206 Partial Content", Content_Type="multipart/byteranges")], DiskUnreadable),
    ],
)
def test_lies_and_changes_while_a_disk_is_read(tmp_path: Path, answer: Answer, error: type[Exception]) -> None:
    with serving(once_open(answer)) as peer, opened(peer, tmp_path) as disk, pytest.raises(error):
        read(disk)


def test_a_server_that_gives_the_whole_file_is_not_listened_to(tmp_path: Path) -> None:
    over = threading.Event()

    def whole(request: Request) -> Iterable[bytes]:
        yield head("200 OK", ETag=TAG, Content_Length=1 << 40)
        over.wait(60)

    with serving(whole) as peer:
        with pytest.raises(DiskUnreadable, match="gives no ranges"):
            opened(peer, tmp_path)
        over.set()


def test_a_file_without_tag_is_pinned_by_its_date_and_a_weak_tag_is_compared_only(tmp_path: Path) -> None:
    date = "Thu, 01 Jan 1970 00:00:00 GMT"
    with serving(but(ETag=None, Last_Modified=date)) as peer, opened(peer, tmp_path) as disk:
        read(disk)
        assert peer.requests[1].headers["if-range"] == date
    with serving(but(ETag='W/"1"')) as peer, opened(peer, tmp_path) as disk:
        read(disk)
        assert "if-range" not in peer.requests[1].headers
        peer.answer = but(ETag='W/"2"')
        with pytest.raises(DiskChanged):
            read(disk)


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "429 Slow down"])
def test_a_busy_server_is_asked_again(tmp_path: Path, status: str) -> None:
    def busy(request: Request) -> Iterable[bytes]:
        if request.number % 2 == 0:
            return [head(status, Retry_After=0, Content_Length=4) + b"busy"]
        return right_answer(request)

    with serving(busy) as peer, opened(peer, tmp_path) as disk:
        assert_same(read(disk), disk_bytes(4096, 12288))
        assert peer.connections == 1


@pytest.mark.parametrize(
    ("told", "waited"),
    [("0", 1.5), ("7", 7.0), ("3600", 30.0), ("-5", 1.5), ("soon", 1.5), ("Thu, 01 Jan 2099 00:00:00 GMT", 1.5)],
)
def test_a_server_that_says_how_long_it_is_busy_is_left_alone_so_long_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, waited: float
) -> None:
    waits: list[float | None] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    def busy(request: Request) -> Iterable[bytes]:
        if request.number == 1:
            return [head("503 Busy", Retry_After=told, Content_Length=0)]
        return right_answer(request)

    monkeypatch.setattr(patience, "PAUSES_S", (1.5,))
    with serving(busy) as peer, opened(peer, tmp_path) as disk:
        monkeypatch.setattr(disk._server, "_closed", Clock())  # type: ignore[attr-defined]  # a web disk has one
        assert_same(read(disk), disk_bytes(4096, 12288))
    assert waits == [waited]


def test_an_answer_that_breaks_off_at_any_byte_is_asked_for_again(tmp_path: Path) -> None:
    whole = b"".join(right_answer(Request(1, "", {}, 4096, 4608)))
    with serving() as peer, opened(peer, tmp_path) as disk:
        for end in range(len(whole)):
            broken = len(peer.requests)

            def breaks(request: Request, end: int = end, broken: int = broken) -> Iterable[bytes]:
                if request.number == broken:
                    yield whole[:end]
                    raise ConnectionResetError
                yield from right_answer(request)

            peer.answer = breaks
            assert read(disk, 4096, 4608) == disk_bytes(4096, 4608)
        assert len(peer.requests) == 1 + 2 * len(whole)


def test_a_connection_that_was_closed_between_two_reads(tmp_path: Path) -> None:
    def closes(request: Request) -> Iterable[bytes]:
        yield from right_answer(request)
        raise ConnectionResetError

    with serving(closes) as peer, opened(peer, tmp_path) as disk:
        assert read(disk) == read(disk) == disk_bytes(4096, 12288)


def test_a_server_that_closes_after_each_answer_costs_a_connection_and_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", ())

    def closes(request: Request) -> Iterable[bytes]:
        yield from right_answer(request, Connection="close")
        raise ConnectionResetError

    with serving(closes) as peer, opened(peer, tmp_path) as disk:
        assert read(disk) == read(disk) == disk_bytes(4096, 12288)
        assert peer.connections == 3


def _in_pieces(request: Request, more: bytes = b"") -> Iterable[bytes]:
    whole = b"".join(right_answer(request, Content_Length=None, Transfer_Encoding="chunked")) + more
    start, _, body = whole.partition(b"\r\n\r\n")
    yield start + b"\r\n\r\n"
    for at in range(0, len(body), 1000):
        part = body[at : at + 1000]
        yield f"{len(part):x}\r\n".encode() + part + b"\r\n"
    yield b"0\r\n\r\n"


def test_an_answer_in_pieces_of_unknown_length(tmp_path: Path) -> None:
    with serving(_in_pieces) as peer, opened(peer, tmp_path) as disk:
        assert_same(read(disk), disk_bytes(4096, 12288))
        assert peer.connections == 1


def test_an_answer_in_pieces_that_are_more_than_was_asked_for(tmp_path: Path) -> None:
    more = once_open(lambda request: _in_pieces(request, b"x"))
    with serving(more) as peer, opened(peer, tmp_path) as disk, pytest.raises(DiskUnreadable, match="more came"):
        read(disk)


@pytest.mark.parametrize(
    "part", [b"", b"x", b"HTTP/1.1 206 Partial Content\r\n", head("206 Partial", Content_Length=1)]
)
def test_silence_and_drips_end_in_time(tmp_path: Path, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", ())
    over = threading.Event()

    def drips(request: Request) -> Iterable[bytes]:
        yield part
        while not over.wait(0.1):  # for ever, as far as the reader can tell
            yield b"x"

    with (
        serving(once_open(drips)) as peer,
        opened(peer, tmp_path, timeout_s=1.0) as disk,
        pytest.raises(DiskUnreadable),
    ):
        read(disk)
    over.set()


def test_redirections_stay_on_the_server(tmp_path: Path) -> None:
    def moved(request: Request) -> Iterable[bytes]:
        if request.target.startswith("/disk"):
            return [head("302 Found", Location="/real?token=1", Content_Length=0)]
        return right_answer(request)

    with serving(moved) as peer, opened(peer, tmp_path) as disk:
        assert_same(read(disk), disk_bytes(4096, 12288))
        assert [request.target for request in peer.requests][1:] == ["/real?token=1"] * 2


def test_redirections_that_go_round_in_a_circle(tmp_path: Path) -> None:
    def moved(request: Request) -> Iterable[bytes]:
        return [head("302 Found", Location=f"/disk?{request.number}", Content_Length=0)]

    with serving(moved) as peer, pytest.raises(DiskUnreadable, match="too many redirections"):
        opened(peer, tmp_path)


@pytest.mark.parametrize(
    "location", ["https://127.0.0.1/disk", "//other.example/disk?token=secret", "file:/etc/passwd"]
)
def test_a_redirection_elsewhere_is_refused_and_nobody_else_learns_a_secret(tmp_path: Path, location: str) -> None:
    def moved(request: Request) -> Iterable[bytes]:
        return [head("302 Found", Location=location, Content_Length=0)]

    with serving() as other, serving(moved) as peer:
        for place in (location, f"{other.origin}/disk"):
            location = place
            with pytest.raises((DiskDenied, DiskUnreadable), match="redirected") as caught:
                opened(peer, tmp_path, DiskAccess(origin=peer.origin, cookie="secret"))
            assert "secret" not in str(caught.value)
        assert other.requests == []


def test_secrets_go_to_their_server_only_and_are_never_shown(tmp_path: Path) -> None:
    with serving() as peer:
        access = DiskAccess(origin=peer.origin, cookie="session=secret1", user="me", password="secret2")  # noqa: S106
        elsewhere = DiskAccess(origin="http://elsewhere", cookie="session=secret3")
        with opened(peer, tmp_path, elsewhere, access) as disk:
            read(disk)
        for request in peer.requests:
            assert request.headers["cookie"] == "session=secret1"
            assert request.headers["authorization"] == "Basic bWU6c2VjcmV0Mg=="
        with opened(peer, tmp_path, elsewhere) as disk:
            assert "cookie" not in peer.requests[-1].headers
        assert "secret" not in repr((access, elsewhere))


def test_an_empty_file_is_an_empty_disk(tmp_path: Path) -> None:
    def empty(request: Request) -> Iterable[bytes]:
        return [head("416 Range Not Satisfiable", Content_Range="bytes */0", Content_Length=0)]

    with serving(empty) as peer, opened(peer, tmp_path) as disk:
        assert (disk.size_bytes, list(disk.extents())) == (0, [])


def target_on(peer: Peer, folder: Path) -> WritableDisk:
    """A target of SIZE bytes that holds what :func:`disk_bytes` says."""
    host = host_for(folder, peer.origin, timeout_s=20.0)
    target = open_target(f"{peer.origin}/disk", host, SIZE, create=False, overwrite=True)
    target.write(4096, disk_bytes(4096, SIZE))
    target.write(0, disk_bytes(0, 4096))
    return target


def put_answer(*statuses: str) -> Answer:
    """What is put there is answered by these, one after the other, then by 201."""
    left = list(statuses)

    def answer(request: Request) -> Iterable[bytes]:
        if request.method == "PUT":
            return [head(left.pop(0) if left else "201 Created", Content_Length=0)]
        return right_answer(request)

    return answer


@pytest.mark.parametrize("status", ["503 Busy", "500 Oops"])
def test_a_busy_server_is_given_the_file_again(tmp_path: Path, status: str) -> None:
    with serving(put_answer(status)) as peer:
        target_on(peer, tmp_path).finish()
        puts = [request for request in peer.requests if request.method == "PUT"]
        assert len(puts) == 2
        assert all(request.body == disk_bytes(0, SIZE) for request in puts)


@pytest.mark.parametrize("status", ["401 Who", "403 No", "302 Found", "404 Gone", "507 Full", "206 Partial"])
def test_a_server_that_does_not_take_a_file(tmp_path: Path, status: str) -> None:
    with serving(put_answer(*[status] * 9)) as peer, pytest.raises((DiskDenied, DiskUnwritable)):
        target_on(peer, tmp_path).finish()


def test_a_server_that_answers_before_it_has_all(tmp_path: Path) -> None:
    def full(request: Request) -> Iterable[bytes]:
        yield from put_answer("507 Full")(request)
        if request.method == "PUT":
            raise ConnectionResetError

    with serving(full) as peer:
        target = target_on(peer, tmp_path)
        peer.takes_bytes = 1000
        with pytest.raises(DiskUnwritable):
            target.finish()


def test_a_server_that_is_lost_while_it_takes_a_file(tmp_path: Path) -> None:
    def lost(request: Request) -> Iterable[bytes]:
        if request.method == "PUT" and len(request.body) < SIZE:
            peer.takes_bytes = None
            raise ConnectionResetError
        return put_answer()(request)

    with serving(lost) as peer:
        target = target_on(peer, tmp_path)
        peer.takes_bytes = 1000
        target.finish()
        assert peer.requests[-2].body == disk_bytes(0, SIZE)


def test_a_server_that_has_another_size_afterwards(tmp_path: Path) -> None:
    def short(request: Request) -> Iterable[bytes]:
        if peer.requests[-2:-1] and peer.requests[-2].method == "PUT":
            return right_answer(request, Content_Range="bytes 0-0/4096")
        return put_answer()(request)

    with serving(short) as peer, pytest.raises(DiskUnwritable, match="4096 bytes of it"):
        target_on(peer, tmp_path).finish()
