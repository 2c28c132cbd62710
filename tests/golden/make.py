"""How the golden repositories of format 1 were made. Run once; nobody runs it again for names that are there.

    PYTHONPATH=tests .venv/bin/python tests/golden/make.py

It goes through one history with the code of its day, once without encryption and once with: two virtual machines and
four small ones, restore points of a disk that grows and shrinks, every codec, holes, blocks that do not compress,
rounds of pruning, retention, a collection that ended and one that was killed, real damage in quarantine, dead
writers. Contents of disks, ids of points, repository ids, master keys and passphrases follow from constants; nonces,
salts, times and the sessions of the collector do not. A later feature of a format gets a repository of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from blake3 import blake3

from holdfast_agent.errors import RepositoryIoError
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.ids import HOLE, BlockId, Sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.rules import Compression
from holdfast_agent.repository import claims, layout
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.quarantine import put_pack_aside, put_records_aside
from holdfast_agent.repository.repository import Repository, create_repository
from holdfast_agent.repository.store import FileStore
from holdfast_agent.repository.tree import TreeBuilder, TreeReader
from holdfast_agent.repository.verify import verify
from holdfast_agent.repository.writer import SessionWriter, store_blob
from holdfast_agent.sealing.keys import PUBLIC, MasterKey, RepositoryKeys
from holdfast_agent.sealing.paper import encode_paper
from holdfast_agent.sealing.records import RecordKind, seal_record
from holdfast_agent.sealing.roots import pack_set_digest, seal_point
from holdfast_agent.sealing.slots import LEAST_MEMORY_KIB, public_slot, wrap_master
from lab import golden
from lab.faults import FaultySystem
from lab.golden import FAR, Golden, GoldenDisk, GoldenPoint

LOG2 = 16
LARGE_LOG2 = 20
DAY_S = 86400.0
OLD, NEW, OTHER = "the first passphrase", "the second passphrase", "somebody else's passphrase"
Blocks = dict[int, bytes]
Change = Mapping[int, tuple[str, str]]
"""Number of a block → (codec, seed); the codec "noise" is for content that does not compress, "hole" for zeros."""


class Disk:
    """What a disk holds, and how its blocks were compressed when they were stored."""

    def __init__(self, name: str, size_bytes: int, block_log2: int = LOG2) -> None:
        self.name = name
        self.geometry = Geometry(size_bytes, block_log2)
        self.blocks: Blocks = {}
        self.codecs: dict[int, Compression] = {}
        self.base: TreeReader | None = None

    def write(self, change: Change) -> None:
        for number, (codec, seed) in change.items():
            self.codecs[number] = Compression.LZ4 if codec in ("noise", "hole") else Compression(codec)
            self._put(number, b"" if codec == "hole" else content(codec, seed, self.geometry.block_bytes))

    def resize(self, size_bytes: int) -> None:
        """As a hypervisor does it: what lies beyond the new end is gone, of the block at the end too."""
        self.geometry = Geometry(size_bytes, self.geometry.block_log2)
        self.blocks = {number: plain for number, plain in self.blocks.items() if number < self.geometry.blocks}
        last = self.geometry.blocks - 1
        if last in self.blocks:
            self._put(last, self.blocks[last])

    def _put(self, number: int, plain: bytes) -> None:
        """What lies beyond the end of the disk is zeros."""
        kept = plain[: self.geometry.extent(number).length].ljust(self.geometry.block_bytes, b"\0")
        self.blocks[number] = kept
        if not any(kept):
            del self.blocks[number]


def content(codec: str, seed: str, length: int) -> bytes:
    source = random.Random(seed)
    return source.randbytes(length) if codec == "noise" else source.randbytes(64) * (length // 64)


def sid_of(name: str) -> Sid:
    return Sid(blake3(f"golden point {name}".encode()).hexdigest()[:32])


class Killed(FaultySystem):
    """The storage fails when ``name`` is to be created: what a collector that is killed there leaves."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def link(self, src: str, dst: str) -> None:
        if dst.endswith(self._name):
            raise OSError(errno.EIO, "injected")
        super().link(src, dst)


class Maker:
    """One repository in ``folder`` and what it must be found to hold."""

    def __init__(self, folder: Path, repository_id: str, master: MasterKey) -> None:
        self.folder = folder
        self.master = master
        self.keys = RepositoryKeys.derive(master, repository_id)
        slots = {"slot-1": public_slot(repository_id) if master.public else self._slot(OLD, repository_id)}
        create_repository(folder / "repository", repository_id, slots)
        self.repository = self.open()
        self.points: dict[Sid, GoldenPoint] = {}

    def open(self, system: FaultySystem | None = None) -> Repository:
        return Repository.open(
            self.folder / "repository", self.folder / "cache", system or FaultySystem(), clock=lambda: golden.NOW
        )

    def _slot(self, passphrase: str, repository_id: str) -> bytes:
        return wrap_master(self.master, passphrase, repository_id, memory_kib=LEAST_MEMORY_KIB)

    def change_keys(self) -> None:
        """Two more slots, the first one removed, the third epoch."""
        for name, passphrase in (("slot-2", NEW), ("other", OTHER)):
            self.repository.key_slots.add(name, self._slot(passphrase, self.keys.repository_id))
        self.repository.key_slots.remove("slot-1")
        self.raise_epoch(3)

    def raise_epoch(self, epoch: int) -> None:
        self.repository.raise_epoch(epoch)
        self.keys = RepositoryKeys.derive(self.master, self.keys.repository_id, epoch)

    def back_up(self, name: str, vm: str, disks: list[Disk], base: Sid | None = None, retain_until: float = 0.0) -> Sid:
        """All blocks of each disk are given, as by a source that reads everything; what is known is not stored."""
        sid = sid_of(name)
        lock = self.repository.begin_session(sid)
        config = f"configuration of {vm} at {name}\n" * 20
        with SessionWriter(self.repository, sid, 1) as writer:
            stored = tuple(self._store(writer, disk) for disk in disks)
            packs = writer.publish()
        keys = self.keys.blob_keys()
        blob_id = keys.block_id(config.encode())
        blob = b"".join(seal_record(RecordKind.BLOB, config.encode(), blob_id, keys, Compression.ZSTD))
        packs += store_blob(self.repository, sid, 2, blob)
        digest = pack_set_digest(pack.name for pack in packs)
        point = Point(
            sid, self.keys.repository_id, golden.NOW - DAY_S * (100 - len(self.points)), "nightly", "lab", f"id-{vm}",
            vm, stored, digest, base, blob_id.hex(), "file-system",
        )  # fmt: skip
        self.repository.commit(seal_point(point, self.keys), packs, retain_until)
        lock.close()
        held = tuple(
            GoldenDisk(d.name, d.geometry.size_bytes, d.geometry.block_log2, len(d.blocks), golden.digest_of(d.blocks))
            for d in disks
        )
        self.points[sid] = GoldenPoint(sid, vm, held, config, until=retain_until)
        return sid

    def _store(self, writer: SessionWriter, disk: Disk) -> DiskPoint:
        keys = self.keys.data_keys()
        with TreeBuilder(disk.geometry, disk.base) as builder:
            for number in sorted(number for number in disk.codecs if number < disk.geometry.blocks):
                plain = disk.blocks.get(number, b"")
                block_id = keys.block_id(plain) if plain else HOLE
                if writer.missing([block_id])[0]:
                    writer.append(*seal_record(RecordKind.DATA, plain, block_id, keys, disk.codecs[number]))
                builder.set(number, block_id)
            root = builder.finish(writer)
        reason = "there is no base" if disk.base is None else "all blocks were compared"
        mode = ChangeMode.FULL if disk.base is None else ChangeMode.DIGEST
        disk.base = TreeReader(self.repository.reader(), root, disk.geometry)
        return DiskPoint(
            disk.name, disk.name, disk.geometry.size_bytes, disk.geometry.block_log2, root.hex(), mode, reason,
            change_id=f"change-{root.hex()[:8]}",
        )  # fmt: skip

    def mark(self, sid: Sid, **changed: float | bool) -> None:
        self.points[sid] = msgspec.structs.replace(self.points[sid], **changed)

    def prune(self, sid: Sid, window_s: float) -> None:
        assert self.repository.tombstone(sid, window_s, "retention: days")
        self.mark(sid, hidden=True)

    def home_of(self, block_id: BlockId) -> tuple[Path, str, int]:
        """(file, pack, offset) of a record."""
        (home,) = self.repository.index.find([block_id])[block_id]
        return self.folder / "repository" / layout.pack_object(home.pack), home.pack, home.offset

    def fail(self, name: str, stored: bool) -> Sid:
        """A session that does not come to an end. ``stored``: it has published something."""
        sid = sid_of(name)
        lock = self.repository.begin_session(sid)
        if stored:
            keys = self.keys.data_keys()
            with SessionWriter(self.repository, sid, 1) as writer:
                for number in range(5):
                    plain = content("lz4", f"{name} {number}", 1 << LOG2)
                    writer.append(*seal_record(RecordKind.DATA, plain, keys.block_id(plain), keys))
                writer.publish()
        lock.close()
        return sid


def history(maker: Maker) -> Golden:
    """The whole life of a repository; what it must be found to be at its end."""
    root = Disk("root", (40 << LOG2) + 30_000)
    data = Disk("data", 300 << LOG2)
    root.write(
        {n: ("lz4", f"root {n}") for n in range(12)}
        | {12: ("zstd", "root 12"), 13: ("none", "root 13"), 14: ("noise", "root 14"), 40: ("zstd", "the last")}
    )
    data.write({n: ("lz4", f"data {n}") for n in (0, 99, 100, 101, 255, 256, 299)})
    first = maker.back_up("web 1", "web", [root, data])

    if not maker.master.public:
        maker.raise_epoch(2)
    root.write({n: ("zstd", f"root {n} changed") for n in range(8)} | {13: ("hole", "")})
    data.resize(66_000 << LOG2)
    data.write({65_999: ("lz4", "the end of a disk that grew"), 99: ("none", "data 99 changed")})
    second = maker.back_up("web 2", "web", [root, data], first, retain_until=FAR)

    data.resize((100 << LOG2) + 1000)
    third = maker.back_up("web 3", "web", [root, data], second)

    large = Disk("system", 5 << LARGE_LOG2, LARGE_LOG2)
    large.write({0: ("lz4", "large 0"), 3: ("zstd", "large 3"), 4: ("lz4", "large 4")})
    shared = Disk("shared", 16 << LOG2)
    shared.write({n: ("lz4", f"root {n}") for n in range(4)} | {8: ("lz4", "root 3")})
    db = maker.back_up("db 1", "db", [large, shared])

    if not maker.master.public:
        maker.change_keys()
    for number in range(6):
        small = Disk("only", 8 << LOG2)
        small.write({0: ("lz4", f"small {number}"), 1: ("lz4", "small, always the same"), 7: ("zstd", f"end {number}")})
        maker.back_up(f"small {number}", "small", [small])
    old = [sid_of(f"small {number}") for number in (0, 1)]

    # Retention: until 2100 (by the commit above), a hold, and both of them over.
    maker.repository.retain(third, hold=True)
    maker.mark(third, hold=True)
    maker.repository.retain(db, until=1_700_000_000.0, hold=True)
    maker.repository.retain(db, hold=False)
    maker.mark(db, until=1_700_000_000.0)

    # Rounds of pruning: given back, and pruned again; two whose window is over, which the collector gives up.
    maker.prune(first, 3 * DAY_S)
    assert maker.repository.undo_tombstone(first)
    maker.prune(first, FAR - golden.NOW)
    for sid in old:
        maker.prune(sid, 0.0)
    done = collect(maker.repository)
    assert done.swept_packs and done.generation == 1
    assert any("/base-" in name for name in maker.repository.store.names(layout.INDEX))
    for sid in old:
        del maker.points[sid]

    # What the second collector condemned while it lived; it was killed before its sweep.
    retired = [*old, sid_of("small 2")]
    maker.prune(retired[-1], 0.0)
    killed = maker.open(Killed("gc/2.sweep"))
    with contextlib.suppress(RepositoryIoError):
        collect(killed)
    killed.close()
    del maker.points[retired[-1]]

    # Damage: a record that was noted and healed, a pack that was cut and that no point needs, a record of no pack.
    spoilt = maker.keys.data_keys().block_id(content("lz4", "small 3", 1 << LOG2))
    path, pack, offset = maker.home_of(spoilt)
    altered = bytearray(path.read_bytes())
    altered[offset + 96] ^= 0x5A
    path.write_bytes(altered)
    put_records_aside(maker.repository.store, pack, [spoilt], "the record's payload does not match its CRC")
    healing = Disk("only", 8 << LOG2)
    healing.write({0: ("lz4", "small 3"), 1: ("lz4", "small, always the same")})
    maker.back_up("small healed", "small", [healing])
    failed = maker.fail("failed", stored=True)
    maker.repository.abort(failed)
    (cut,) = (path for path in (maker.folder / "repository" / "packs").rglob(f"{failed}-*"))
    os.truncate(cut, 1000)
    put_pack_aside(maker.repository.store, cut.name, "it is cut off")
    put_records_aside(maker.repository.store, None, [BlockId(b"\x11" * 32)], "it is in no pack")

    host = ""
    if not maker.master.public:
        claims.take_over(maker.folder / "repository", RepositoryHost("K" * 40, "vault"))
        host = "vault"
    dead = maker.fail("dead", stored=False)
    store = FileStore(maker.folder / "repository")
    (maker.folder / "repository" / layout.TMP / ("0" * 32)).write_bytes(b"an upload that a dead writer began")
    return expectation(maker, store, host, retired, [failed], dead)


def expectation(maker: Maker, store: FileStore, host: str, retired: list[Sid], fenced: list[Sid], dead: Sid) -> Golden:
    """What the code of that day found: it must go on being found."""
    public = maker.master.public
    records = maker.repository.index.rebuild()
    dry = collect(maker.repository, dry_run=True)
    report = verify(maker.repository, 2, keys=maker.keys)
    assert report.ok, report.findings
    return Golden(
        repository_id=maker.keys.repository_id,
        slots={"slot-1": ""} if public else {"slot-2": NEW, "other": OTHER},
        removed={} if public else {"slot-1": OLD},
        paper=() if public else encode_paper(maker.master, maker.keys.repository_id),
        epoch=maker.keys.epoch,
        host=host,
        points=tuple(maker.points[sid] for sid in sorted(maker.points)),
        retired=tuple(sorted(retired)),
        fenced=tuple(sorted(fenced)),
        dead=dead,
        records=records,
        records_by_packs=_records_by_packs(maker),
        packs=len(list(store.names(layout.PACKS))),
        live_records=dry.live_records,
        known=report.known,
    )


def _records_by_packs(maker: Maker) -> int:
    """Of an index made while the segments were away."""
    folder = maker.folder / "repository" / layout.INDEX
    folder.rename(maker.folder / "away")
    folder.mkdir()
    records = maker.repository.index.rebuild()
    folder.rmdir()
    (maker.folder / "away").rename(folder)
    return records


def make(name: str, repository_id: str, master: MasterKey) -> None:
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        maker = Maker(Path(folder), repository_id, master)
        expected = history(maker)
        maker.repository.close()
        golden.store(name, expected, maker.folder / "repository")


if __name__ == "__main__":
    socket.gethostname = lambda: "vault"  # session records name the host that they were made on
    make("format-1-plain", "90" * 16, PUBLIC)
    make("format-1-encrypted", "e0" * 16, MasterKey(blake3(b"golden master key").digest()))
