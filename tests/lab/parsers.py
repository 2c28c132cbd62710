"""Everything in Holdfast that makes something of bytes which others wrote: one table, one line for each.

A parser gives a value or raises a :class:`HoldfastError`, whatever it is given.
"""

# ruff: noqa: E501 -- a table reads best with one line to a row
from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast_agent.channel import data_exchange, data_handshake, data_records
from holdfast_agent.channel.authentication import AuthorisedKeys, KeyPair
from holdfast_agent.config.load import load_config
from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.disks.nbd.connection import Connection
from holdfast_agent.disks.nbd.negotiation import Wish, negotiate
from holdfast_agent.disks.nbd.protocol import ALLOCATION, NbdConnectionLost, NbdProtocolError, NbdRequestError
from holdfast_agent.disks.nbd.requests import ReadRequest, StatusRequest
from holdfast_agent.disks.nbd.stream import PlainStream
from holdfast_agent.errors import ObjectDamaged
from holdfast_agent.filesystems.survey import survey
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import parse_sid
from holdfast_agent.model.paths import is_below
from holdfast_agent.model.points import PointEntry
from holdfast_agent.mover import control, conversation
from holdfast_agent.repository import claims, layout
from holdfast_agent.repository.collector_log import packs_swept, packs_to_avoid
from holdfast_agent.repository.configuration import read_config
from holdfast_agent.repository.documents import DocumentType, decode_document
from holdfast_agent.repository.gc.generations import earlier_roots
from holdfast_agent.repository.immutability import decode_answer
from holdfast_agent.repository.packs import check_pack, read_contents, scan_contents
from holdfast_agent.repository.quarantine import Quarantine
from holdfast_agent.repository.retention import Retention, Retentions
from holdfast_agent.repository.segments import decode_segment
from holdfast_agent.repository.store import FileStore
from holdfast_agent.repository.tombstones import Tombstones
from holdfast_agent.sealing.paper import decode_paper
from holdfast_agent.sealing.records import check_record, open_plain_record, open_record, parse_header
from holdfast_agent.sealing.roots import open_point, read_point
from holdfast_agent.sealing.slots import open_slots, slot_facts
from holdfast_agent.sealing.tree import decode_node
from holdfast_agent.service.frame_pipe import FrameReader
from holdfast_agent.service.immutable_helper import Helper, Ledger
from holdfast_agent.service.trusted_clock import TrustedClock
from holdfast_agent.wire import codec
from holdfast_manager.api import messages as api
from holdfast_manager.catalog.sealed_stream import OpeningReader
from holdfast_manager.declarative.document import read_document
from holdfast_manager.settings import ManagerSettings
from lab import parser_samples as of
from lab import repositories as lab
from lab import sparse_disks

CONFIGS = Path(__file__).parents[2] / "configs"


class Ground:
    """A repository and a folder in which parsers that read files find them."""

    def __init__(self, folder: Path) -> None:
        lab.create(folder / "repository")
        self.folder = folder
        self.store = FileStore(folder / "repository")

    def put(self, name: str, data: bytes) -> FileStore:
        """The store, with ``data`` under ``name``; whatever stood there is replaced."""
        (self.folder / "repository" / name).write_bytes(data)
        return self.store

    def file(self, data: bytes) -> Path:
        """``data`` as a file that nobody else may read."""
        path = self.folder / "file"
        path.write_bytes(data)
        path.chmod(0o600)
        return path


@dataclass(frozen=True)
class Parser:
    """``sealed``: what is not exactly a sample is damage, and never returned.

    ``mend`` puts checksums right after an edit, so that what lies behind them is reached too, as a hostile host would
    do it. ``cost``: how many times fewer examples it gets.
    """

    name: str
    samples: Callable[[], Sequence[bytes]]
    parse: Callable[[Ground, bytes], object]
    mend: of.Mend | None = None
    sealed: bool = False
    cost: int = 1


def _whole_pack(ground: Ground, data: bytes) -> object:
    store = ground.put(layout.pack_object(str(of.PACK)), data)
    scan_contents(store, str(of.PACK))
    check = check_pack(store, str(of.PACK), of.ID)
    if check.problem or check.bad:
        raise ObjectDamaged(name=str(of.PACK), offset_bytes=0, reason=check.problem or "a record is bad")
    return read_contents(store, str(of.PACK), of.ID)


def _document(
    name: str, kind: DocumentType, body: object, read: Callable[[FileStore], object], mac: bytes = b""
) -> Parser:  # fmt: skip
    """A document that is read from a store where it stands."""

    def parse(ground: Ground, data: bytes) -> object:
        store = ground.put(name, data)
        try:
            return read(store)
        finally:
            store.remove(name)

    return Parser(name, lambda: [of.document(name, kind, body, mac)], parse, of.mend_document(name))


def _data_record(ground: Ground, data: bytes) -> object:
    """Frames of the lengths that the header says; ZeroMQ keeps them apart."""
    end = data_records.HEADER_BYTES + int.from_bytes(data[4:8], "little") + data_records.TAG_BYTES
    frames = [data[: data_records.HEADER_BYTES], data[data_records.HEADER_BYTES : end], data[end:]]
    return data_records.RecordOpener(of.SECRET, 0).open(frames if frames[-1] else frames[:-1])


def _hello(ground: Ground, data: bytes) -> object:
    found = data_handshake.decode_hello(data, of.SECRET)
    if found is None:
        raise ObjectDamaged(name="hello", offset_bytes=0, reason="nobody answers it")
    return found


def _said(ground: Ground, data: bytes) -> object:
    """A message of the other mover, and what is looked at in it at once."""
    found = conversation.decode(data)
    disk = Geometry(1 << 30)
    match found:
        case conversation.Opened(lost=runs) | conversation.Ids(data=runs) | conversation.Offer(blocks=runs):
            count = conversation.count_blocks(runs, disk)
            conversation.split_ids(bytes(32 * min(count, conversation.MAX_OFFER)), count, conversation.MAX_OFFER)
    return found


def _frames(ground: Ground, data: bytes) -> object:
    """What a mover wrote before it was gone."""
    reader, writer = os.pipe()
    os.write(writer, data[: 32 << 10])
    os.close(writer)
    try:
        return list(FrameReader(reader, "a mover", 1 << 16).frames())
    finally:
        os.close(reader)


def _nbd(ground: Ground, data: bytes) -> object:
    """A server that says ``data`` and nothing more, whatever it is asked."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data[: 32 << 10])
        far.shutdown(socket.SHUT_WR)
        try:
            stream, export = negotiate(PlainStream(near, 1.0), Wish("disk", (ALLOCATION,), "nbd+unix:/s", "lab"))
            connection = Connection(stream, export, 1.0)
            connection.run([ReadRequest(0, memoryview(bytearray(512))), StatusRequest(0, 1 << 20, export.contexts)])
            return export
        except (NbdProtocolError, NbdRequestError, NbdConnectionLost, OSError) as error:  # translated by the disk
            raise ObjectDamaged(name="nbd", offset_bytes=0, reason=str(error)) from error


class _Disk:
    """A disk whose content somebody chose."""

    url = "file:/disk"

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)

    def extents(self) -> Iterator[DiskExtent]:
        yield DiskExtent(0, self.size_bytes, True)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= self.size_bytes
        buffer[:] = self._content[offset : offset + len(buffer)]

    def close(self) -> None:
        pass


def _to_helper(ground: Ground, data: bytes) -> object:
    """Of a repository whose points need not be kept, for a helper that may mark nothing here."""
    ledger = Ledger(Path(":memory:"))
    with contextlib.closing(ledger):
        request = data.replace(b"/REPOSITORY", bytes(ground.folder / "repository"))
        return Helper([ground.folder], os.geteuid(), ledger, time.time).handle(request)


def _sealed_stream(ground: Ground, data: bytes) -> object:
    """The chunks alone: a slot that is altered costs as much memory as it says, and is among the key slots."""
    front, _ = of.sealed_stream()
    return OpeningReader(io.BytesIO(front + data), of.WORDS, "backup").read()


def _text(data: bytes) -> str:
    """As arguments come from a command line."""
    return data.decode("utf-8", "surrogateescape")


_TOMBSTONE = f"{layout.TOMBSTONES}/{of.SID}-1"
_END, _UNDONE = DocumentType.RETIRED, DocumentType.UNDONE
_POINT = layout.point_object(of.SID)
_RETENTION = f"{layout.RETENTION}/{of.SID}-1"
_NOTE = f"{layout.QUARANTINE}/{of.PACK}.{'0' * 32}"
_CONFIG = f"{layout.CONFIG}/000002"

# fmt: off
PARSERS: tuple[Parser, ...] = (
    # a repository
    Parser("record header", lambda: of.records(lab.KEYS), lambda g, d: parse_header(d), of.mend_record),
    Parser("record", lambda: of.records(lab.KEYS), lambda g, d: check_record(d), of.mend_record, sealed=True),
    Parser("sealed record", lambda: of.records(lab.KEYS), lambda g, d: open_record(d, lab.DATA_KEYS), of.mend_record, sealed=True),
    Parser("open record", lambda: of.records(of.PUBLIC_KEYS), lambda g, d: open_record(d, of.PUBLIC_KEYS.data_keys()), of.mend_record, sealed=True),
    Parser("node record", lambda: [of.NODE_RECORD], lambda g, d: open_plain_record(d, of.NODE_ID), of.mend_record, sealed=True),
    Parser("node", lambda: [of.NODE], lambda g, d: decode_node(d, of.NODE_ID, 0, lab.LOG2)),
    Parser("pack", lambda: [of.pack()[0]], _whole_pack, of.mend_pack, sealed=True),
    Parser("segment", of.segments, lambda g, d: decode_segment(of.SEGMENT, d, of.ID), of.mend_segment, sealed=True),
    Parser("point", lambda: [of.ENTRY.body], lambda g, d: read_point(PointEntry(of.SID, d, b""))),
    Parser("point with its MAC", lambda: [of.ENTRY.body], lambda g, d: open_point(PointEntry(of.SID, d, of.ENTRY.mac), lab.KEYS), sealed=True),
    Parser("key slot", of.slots, lambda g, d: slot_facts("slot", d)),
    Parser("public key slot", lambda: of.slots()[:1], lambda g, d: open_slots({"slot": d}, None, lab.REPOSITORY_ID)),
    Parser("paper key", lambda: [of.PAPER], lambda g, d: decode_paper(_text(d))),
    Parser("pack name", lambda: [str(of.PACK).encode()], lambda g, d: layout.parse_pack_name(_text(d))),
    Parser("session id", lambda: [of.SID.encode()], lambda g, d: parse_sid(_text(d))),
    _document(_POINT, DocumentType.POINT, of.ENTRY.body, lambda s: decode_document(_POINT, s.read(_POINT, 1 << 20)), of.ENTRY.mac),
    _document(_CONFIG, DocumentType.CONFIG, of.CONFIG, lambda s: (read_config(s), claims.serving_host(Path(s._root)))),
    _document(_NOTE, DocumentType.QUARANTINE, of.NOTE, Quarantine.read),
    _document(_TOMBSTONE, DocumentType.TOMBSTONE, of.STONE, lambda s: (Tombstones(s).of(of.SID), Tombstones(s).due(lambda sid: False))),
    _document(f"{_TOMBSTONE}.end", _END, of.ENDED, lambda s: (Tombstones(s).retired(), Tombstones(s).undo(of.SID))),
    _document(f"{_TOMBSTONE}.undone", _UNDONE, of.ENDED, lambda s: Tombstones(s).hidden()),
    _document(_RETENTION, DocumentType.RETENTION, Retention(2.0, True), lambda s: (Retentions(s).of_many([of.SID]), Retentions(s).of(of.SID))),
    _document(f"{layout.GC}/1.begin", DocumentType.GC_BEGIN, of.BEGIN, earlier_roots),
    _document(f"{layout.GC}/1.condemned", DocumentType.GC_CONDEMNED, of.PACKS, lambda s: (packs_swept(s), packs_to_avoid(s))),
    _document(f"{layout.GC}/1.sweep", DocumentType.GC_SWEEP, of.PACKS, lambda s: (packs_swept(s), packs_to_avoid(s))),

    # between processes
    Parser("request", lambda: of.REQUESTS, lambda g, d: codec.decode_request(d)),
    Parser("reply", lambda: of.REPLIES, lambda g, d: codec.decode_from_agent(d)),
    Parser("request of the API", lambda: of.API_REQUESTS, lambda g, d: api.decode_request(d, "a user")),
    Parser("answer of the API", lambda: of.API_ANSWERS, lambda g, d: api.decode_answer(d, "a manager")),
    Parser("correlation", lambda: [codec.pack_correlation(7)], lambda g, d: codec.unpack_correlation(d, "a peer")),
    Parser("order to a mover", lambda: of.TO_MOVER, lambda g, d: control.decode_order(d)),
    Parser("pipe of a mover", lambda: [b"\3\0\0\0abc" * 3], _frames),
    Parser("hello of the data channel", lambda: [of.HELLO], _hello, of.mend_hello, sealed=True),
    Parser("welcome of the data channel", lambda: [of.WELCOME], lambda g, d: data_handshake.decode_welcome(d, of.HELLO, of.SECRET), of.mend_welcome, sealed=True),
    Parser("totals of the data channel", lambda: [data_exchange.Totals(1 << 40, (3, 5)).encode()], lambda g, d: data_exchange.Totals.decode(d, 2)),
    Parser("record of the data channel", lambda: of.DATA_RECORDS, _data_record, sealed=True),
    Parser("message between movers", lambda: of.SAID, _said),
    Parser("request to the immutable helper", lambda: of.TO_HELPER, _to_helper),
    Parser("answer of the immutable helper", lambda: [b'{"kept":["a"],"until":1.0}'], lambda g, d: decode_answer(d)),
    Parser("NBD server", lambda: [of.NBD], _nbd),

    Parser("content of a disk", of.disks, lambda g, d: survey(_Disk(d), 4096), cost=2),
    Parser("content of an XFS", lambda: [sparse_disks.xfs().data], lambda g, d: survey(sparse_disks.xfs().disk(d), 4096), sparse_disks.mend_xfs, cost=4),
    Parser("content of an NTFS", lambda: [sparse_disks.ntfs().data], lambda g, d: survey(sparse_disks.ntfs().disk(d), 4096), cost=4),

    # from people
    Parser("path from a manager", lambda: [b"/srv/holdfast/main"], lambda g, d: is_below(_text(d), [str(g.folder)])),
    Parser("disk URL", lambda: of.URLS, lambda g, d: parse_disk_url(_text(d))),
    Parser("configuration of an agent", lambda: [(CONFIGS / "agent.toml").read_bytes()], lambda g, d: load_config(g.file(d))),
    Parser("configuration of a manager", lambda: [(CONFIGS / "manager.toml").read_bytes()], lambda g, d: ManagerSettings.load(g.file(d))),
    Parser("declarative file", lambda: [(CONFIGS / "jobs.toml").read_bytes()], lambda g, d: read_document(g.file(d)), cost=2),
    Parser("authorised keys", lambda: [b"# managers\n" + b"a" * 40 + b" vault\n"], lambda g, d: AuthorisedKeys(g.file(d)).current()),
    Parser("secret key", lambda: [KeyPair.generate().secret], lambda g, d: KeyPair.load(g.file(d))),
    Parser("trusted clock", lambda: [b'{"latest":1.0,"uptime":1.0,"boot":"x"}'], lambda g, d: TrustedClock(g.file(d))()),
    Parser("sealed backup of a configuration", lambda: [of.sealed_stream()[1]], _sealed_stream, sealed=True, cost=25),
)
# fmt: on
