"""Small real repositories: backups of a few blocks, restores that open every record, and damage done to files."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path

from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId, Sid, new_sid
from holdfast_agent.model.points import DiskPoint, Point, PointEntry
from holdfast_agent.repository.file_writing import System
from holdfast_agent.repository.repository import Repository, create_repository
from holdfast_agent.repository.tree import TreeBuilder, TreeReader
from holdfast_agent.repository.writer import SessionWriter, store_blob
from holdfast_agent.sealing.keys import MasterKey, RepositoryKeys
from holdfast_agent.sealing.records import RecordKind, open_record, seal_record
from holdfast_agent.sealing.roots import open_point, pack_set_digest, root_id, seal_point
from holdfast_agent.sealing.slots import public_slot
from holdfast_agent.wire.specs import PackRef

REPOSITORY_ID = "00112233445566778899aabbccddeeff"
KEYS = RepositoryKeys.derive(MasterKey(b"m" * 32), REPOSITORY_ID)
DATA_KEYS = KEYS.data_keys()
LOG2 = 16
BLOCK = 1 << LOG2
ZERO = bytes(BLOCK)


def create(path: Path) -> None:
    create_repository(path, REPOSITORY_ID, {"first": public_slot(REPOSITORY_ID)})


def open_at(folder: Path, system: System = os) -> Repository:
    """The repository ``folder``/repository with its cache beside it."""
    return Repository.open(folder / "repository", folder / "cache", system)


def block(seed: object) -> bytes:
    """A whole block that is different for each seed and compresses well, so that records stay small."""
    return random.Random(repr(seed)).randbytes(64) * (BLOCK // 64)


def seal(plain: bytes) -> tuple[bytes, bytes]:
    return seal_record(RecordKind.DATA, plain, DATA_KEYS.block_id(plain), DATA_KEYS)


def block_id(plain: bytes) -> BlockId:
    return HOLE if plain == ZERO else DATA_KEYS.block_id(plain)


def write_tree(
    repository: Repository, writer: SessionWriter, blocks: Mapping[int, bytes], geometry: Geometry,
    base: TreeReader | None = None,
) -> BlockId:  # fmt: skip
    """Store changed blocks (number → plain bytes) as a target mover does, and the tree over them."""
    with TreeBuilder(geometry, base) as builder:
        for number in builder.unsafe_blocks(writer):
            assert number in blocks, f"block {number} must be sent again"
        for number, plain in blocks.items():
            identity = block_id(plain)
            if writer.missing([identity])[0]:
                writer.append(*seal(plain))
            builder.set(number, identity)
        return builder.finish(writer)


def point_of(sid: Sid, geometry: Geometry, root: BlockId, packs: list[PackRef], config: str | None = None) -> Point:
    disk = DiskPoint("disk0", "root", geometry.size_bytes, geometry.block_log2, root.hex(), ChangeMode.FULL, "a test")
    digest = pack_set_digest(pack.name for pack in packs)
    return Point(sid, REPOSITORY_ID, 1.0, "job", "server", "vm-1", "vm", (disk,), digest, config=config)


def backup(
    repository: Repository, blocks: Mapping[int, bytes], geometry: Geometry, base: Point | None = None,
    sid: Sid | None = None, **limits: int,
) -> Point:  # fmt: skip
    """A whole session: begin, write, publish, a configuration blob, commit."""
    sid = sid or new_sid()
    lock = repository.begin_session(sid)
    try:
        with SessionWriter(repository, sid, 1, **limits) as writer:
            disk = base.disks[0] if base is not None else None
            tree = TreeReader(repository.reader(), root_id(disk.root), disk.geometry) if disk is not None else None
            root = write_tree(repository, writer, blocks, geometry, tree)
            packs = writer.publish()
        blob_keys = KEYS.blob_keys()
        config = f"the configuration of a VM at {sid}".encode()
        blob_id = blob_keys.block_id(config)
        record = b"".join(seal_record(RecordKind.BLOB, config, blob_id, blob_keys))
        packs += store_blob(repository, sid, 2, record)
        point = point_of(sid, geometry, root, packs, blob_id.hex())
        repository.commit(seal_point(point, KEYS), packs)
        return point
    finally:
        lock.close()


def restore(repository: Repository, point: Point | PointEntry) -> dict[int, bytes]:
    """Blocks that are no holes, each opened and proved by its id."""
    opened = open_point(point, KEYS) if isinstance(point, PointEntry) else point
    reader = repository.reader()
    disk = opened.disks[0]
    ids = dict(enumerate(TreeReader(reader, root_id(disk.root), disk.geometry).ids()))
    plain = {
        identity: open_record(record, DATA_KEYS, identity)
        for identity, record in reader.read_many(i for i in ids.values() if i != HOLE)
    }
    return {number: plain[identity] for number, identity in ids.items() if identity != HOLE}


def files(folder: Path) -> Iterator[Path]:
    """Every file of a repository but its space reserve, session records and leftovers too, in a fixed order."""
    found = (path for path in (folder / "repository").rglob("*") if path.is_file())
    yield from sorted(path for path in found if path.name != "space-reserve")


def flip(path: Path, position: int) -> None:
    """Alter one byte by XOR: overwriting with a constant would change nothing one time in 256."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x5A
    path.chmod(0o600)
    path.write_bytes(data)


def write_beside_others(folder: Path, start: Barrier, writer: int) -> None:
    """Five backups in a process of its own, beginning when all writers are there; one block is common to all."""
    repository = open_at(folder)
    start.wait()
    for turn in range(5):
        blocks = {number: block((writer, turn, number)) for number in range(7)} | {7: block("shared")}
        backup(repository, blocks, Geometry(8 * BLOCK, LOG2))
    repository.close()
