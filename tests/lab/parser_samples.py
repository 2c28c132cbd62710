"""Valid bytes of every kind that Holdfast reads, and how their checksums are put right after an edit."""

from __future__ import annotations

import functools
import hmac
import io
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable

import msgspec
from blake3 import blake3

from holdfast_agent.channel import data_handshake, data_records
from holdfast_agent.errors import DiskNotFound
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.rules import Compression, TransferRules
from holdfast_agent.mover import conversation
from holdfast_agent.repository import layout
from holdfast_agent.repository.configuration import Config
from holdfast_agent.repository.documents import DocumentType, encode_document
from holdfast_agent.repository.gc.generations import Begin
from holdfast_agent.repository.packs import PackContents
from holdfast_agent.repository.pending_packs import PendingPack
from holdfast_agent.repository.quarantine import Note
from holdfast_agent.repository.segments import encode_segment
from holdfast_agent.repository.tombstones import Tombstone
from holdfast_agent.sealing.keys import PUBLIC, MasterKey, RepositoryKeys
from holdfast_agent.sealing.paper import encode_paper
from holdfast_agent.sealing.records import HEADER_BYTES, RecordKind, parse_header, plain_record, seal_record
from holdfast_agent.sealing.roots import seal_point
from holdfast_agent.sealing.slots import LEAST_MEMORY_KIB, public_slot, wrap_master
from holdfast_agent.sealing.tree import encode_node
from holdfast_agent.wire import codec, messages, movers, specs
from holdfast_agent.wire.immutability import Release
from holdfast_manager.api import messages as api
from holdfast_manager.catalog.sealed_stream import SealingWriter
from lab import repositories as lab
from lab.tools import require_tool

Mend = Callable[[bytes], bytes]
SID = Sid("ab" * 16)
ID = bytes.fromhex(lab.REPOSITORY_ID)
PACK = layout.PackName(SID, 1, "d", 7)
SEGMENT = layout.segment_object(SID, 1, 1)
PUBLIC_KEYS = RepositoryKeys.derive(PUBLIC, lab.REPOSITORY_ID)
NODE_ID, NODE = encode_node(0, lab.LOG2, bytes(range(1, 33)) * 3)
NODE_RECORD = b"".join(plain_record(RecordKind.NODE, NODE, NODE_ID))
POINT = lab.point_of(SID, Geometry(4 * lab.BLOCK, lab.LOG2), NODE_ID, [], "cd" * 32)
ENTRY = seal_point(POINT, lab.KEYS)
SECRET = bytes(range(32))
WORDS = "words of a passphrase"

CONFIG = Config(lab.REPOSITORY_ID, 1.0, host=RepositoryHost("k" * 40, "vault"), removed_slots=("old",), epoch=3)
BEGIN = Begin(1, 1.0, (SID,), 1, "00" * 32)
PACKS = {"generation": 1, "packs": [str(PACK)]}
NOTE = Note(str(PACK), ("ee" * 32,), "why", 1.0)
STONE = Tombstone(sid=SID, number=1, pruned=1.0, not_before=2.0)
ENDED = {"sid": SID, "number": 1}
_ERROR = DiskNotFound(url="file:/x", host="a").to_record()

API_REQUESTS = [
    codec.encode(each)
    for each in (
        api.Greet(major=1, minor=0, software="1"),
        api.StartCommand(
            arguments=("job", "list"), files={"a": b"b"}, terminal=api.Terminal(stdout=True, settings={"TERM": "xterm"})
        ),
        api.GiveInput(command=1, data=b"x" * 100, end=True),
        api.ResizeTerminal(command=1, columns=80, lines=24),
        api.TookOutput(command=1, length_bytes=4096),
    )
]
API_ANSWERS = [
    codec.encode(each)
    for each in (
        api.Greeted(major=1, minor=0, software="1", user="alice", roles=("viewer",)),
        api.Output(command=1, stream=1, data=b"x" * 100),
        api.FileMade(command=1, name="a", data=b"b", last=True),
        api.CommandEnded(command=1, code=0),
    )
]
REQUESTS = [
    codec.encode(message)
    for message in (
        messages.Hello(major=1, minor=0, software="0", clock=1.0),
        messages.Heartbeat(),
        messages.RenewLease(lease="s", ttl_s=1.0),
        messages.BeginTransfer(
            lease="s",
            mover="m",
            order=specs.BackupOrder(geometry=Geometry(1 << 20), disks=("file:/a",), mode=ChangeMode.FULL),
        ),
    )
]
REPLIES = [
    codec.encode(message)
    for message in (
        messages.Done(),
        messages.Failure(error=_ERROR),
        messages.PointList(points=(ENTRY,), more=False),
    )
]
TO_MOVER = [
    msgspec.msgpack.encode(frame) for frame in (movers.NewRules(rules=TransferRules()), movers.Stop(reason="why"))
]
SAID = [
    conversation.encode(message)
    for message in (
        conversation.BeginBackup(Geometry(1 << 30), ChangeMode.DIGEST, NODE_ID, Geometry(1 << 20)),
        conversation.Opened(((1, 2), (5, 1))),
        conversation.Ids(0, ((0, 2), (9, 3))),
        conversation.Offer(7, ((0, 3),)),
        conversation.Wanted(7, b"\1\0\1"),
        conversation.Holes((3, 4)),
        conversation.GaveUp(_ERROR),
        conversation.Stored(NODE_ID),
    )
]
TO_HELPER = [msgspec.json.encode(Release("/REPOSITORY", packs)) for packs in ((), (str(PACK),))]
HELLO = data_handshake.encode_hello(data_handshake.Hello(1, 0, 1, 1 << 22, 1, b"c" * 16, b"r" * 32), SECRET)
WELCOME = data_handshake.encode_welcome(data_handshake.Welcome(1, 1 << 22, b"w" * 32), HELLO, SECRET)
DATA_RECORDS = [
    b"".join(data_records.RecordSealer(SECRET, 0).seal(data_records.RecordKind.MESSAGE, SAID[0] + bytes(100))),
    b"".join(data_records.RecordSealer(SECRET, 0).seal_carrier(SAID[0], bytes(range(256)))),
]
"""Two or three frames, one after the other."""

URLS = [
    b"file:/a%20b.raw",
    b"image:/x?format=qcow2",
    b"nbd+unix:/s.sock?export=a%2Fb&bitmap=now",
    b"block:/dev/sdb",
    b"nbds://[::1]:10809?export=disk",
    b"https://server.example:8443/images/a.raw?version=2",
]
PAPER = "\n".join(encode_paper(MasterKey(b"m" * 32), lab.REPOSITORY_ID)).encode()
NBD = bytes.fromhex(  # what a server says to the negotiation, to a read of 512 bytes, and to a question of allocation
    f"{b'NBDMAGICIHAVEOPT'.hex()} 0003"
    "0003e889045565a9 00000008 00000001 00000000"
    f"0003e889045565a9 0000000a 00000004 00000013 00000001 {b'base:allocation'.hex()}"
    "0003e889045565a9 0000000a 00000001 00000000"
    "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0101"
    "0003e889045565a9 00000007 00000001 00000000"
    f"668e33ef 0000 0001 0000000000000001 00000108 0000000000000000 {'55' * 256}"
    "668e33ef 0001 0002 0000000000000001 0000000c 0000000000000100 00000100"
    "668e33ef 0001 0005 0000000000000002 0000000c 00000001 00100000 00000003"
)


@functools.cache
def records(keys: RepositoryKeys) -> list[bytes]:
    """One of each codec."""
    data = keys.data_keys()
    plain = lab.block("parsers")
    sealed = (seal_record(RecordKind.DATA, plain, data.block_id(plain), data, codec) for codec in Compression)
    return [b"".join(record) for record in sealed]


@functools.cache
def pack() -> tuple[bytes, PackContents]:
    pending = PendingPack(PACK, ID, 0, memoryview(bytearray(1 << 20)))
    for whole in (*records(lab.KEYS)[1:], NODE_RECORD):
        pending.add(parse_header(whole), (whole[:HEADER_BYTES], whole[HEADER_BYTES:]))
    kept = _Kept()
    pending.seal()
    contents = pending.write(kept, PACK)  # type: ignore[arg-type]  # all that it wants of a store
    return kept.data, contents


class _Kept:
    data = b""

    def create(self, name: str, data: Iterable[bytes]) -> None:
        self.data = b"".join(data)


@functools.cache
def segments() -> list[bytes]:
    """An empty one and one with a pack."""
    return [encode_segment(SEGMENT, ID, packs) for packs in ((), (pack()[1],))]


@functools.cache
def slots() -> list[bytes]:
    wrapped = wrap_master(MasterKey(b"m" * 32), WORDS, lab.REPOSITORY_ID, memory_kib=LEAST_MEMORY_KIB)
    return [public_slot(lab.REPOSITORY_ID), wrapped]


@functools.cache
def sealed_stream() -> tuple[bytes, bytes]:
    """(what stands before the first chunk, the chunks)."""
    target = io.BytesIO()
    writer = SealingWriter(target, WORDS, LEAST_MEMORY_KIB)
    front = len(target.getvalue())
    writer.write(bytes(range(256)) * 5000)
    writer.finish()
    return target.getvalue()[:front], target.getvalue()[front:]


@functools.cache
def disks() -> list[bytes]:
    """An ext4 with checksums, and a swap area."""
    mkfs = require_tool("mke2fs", "e2fsprogs")
    with tempfile.NamedTemporaryFile() as image:
        image.truncate(256 << 10)
        subprocess.run([mkfs, "-q", "-F", "-t", "ext4", "-O", "metadata_csum,^has_journal", image.name], check=True)
        ext4 = image.read()
    swap = bytearray(64 << 10)
    swap[1024:1036] = struct.pack("<III", 1, 15, 0)
    swap[4086:4096] = b"SWAPSPACE2"
    return [ext4, bytes(swap)]


def document(name: str, kind: DocumentType, body: object, mac: bytes = b"") -> bytes:
    """``body``: as it is if these are bytes, else as JSON."""
    return encode_document(name, kind, body if isinstance(body, bytes) else msgspec.json.encode(body), mac)


# --- checksums put right ------------------------------------------------------------------------------------------


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def mend_record(data: bytes) -> bytes:
    """The CRCs of payload and header."""
    header, payload = data[:HEADER_BYTES], data[HEADER_BYTES:]
    if len(header) < HEADER_BYTES:
        return data
    front = header[:88] + _crc(payload)
    return front + _crc(front) + payload


def mend_pack(data: bytes) -> bytes:
    """The CRCs of header and footer, and that of the table where the footer says that it is."""
    if len(data) < 128:
        return data
    footer = data[-64:]
    offset = int.from_bytes(footer[8:16], "little")
    footer = footer[:20] + _crc(data[offset:-64]) + footer[24:60]
    return data[:60] + _crc(data[:60]) + data[64:-64] + footer + _crc(footer)


def mend_document(name: str) -> Mend:
    """The digest at the end, over name and content."""

    def mend(data: bytes) -> bytes:
        return data[:-32] + blake3(name.encode() + b"\0" + data[:-32]).digest()

    return mend


def mend_segment(data: bytes) -> bytes:
    """The CRC of the header, and the digest."""
    return mend_document(SEGMENT)(data[:32] + _crc(data[:32]) + data[36:]) if len(data) >= 68 else data


def mend_hello(data: bytes) -> bytes:
    """The MAC of somebody who knows the secret of the task, and is hostile all the same."""
    return data[:-32] + _mac(b"hello", data[:-32])


def mend_welcome(data: bytes) -> bytes:
    return data[:-32] + _mac(b"welcome", HELLO + data[:-32])


def _mac(label: bytes, body: bytes) -> bytes:
    return hmac.digest(hmac.digest(SECRET, b"holdfast data channel 1 " + label, "sha256"), body, "sha256")
