"""Golden repositories: real ones of each format that ever was, kept as archives beside what they must restore to.

``tests/golden/make.py`` made them. An archive is never made anew: it stands for the repositories that people have.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from blake3 import blake3

from holdfast_agent.model.ids import HOLE, Sid
from holdfast_agent.model.points import Point
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.tree import TreeReader
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.records import open_record
from holdfast_agent.sealing.roots import root_id

FOLDER = Path(__file__).parents[1] / "golden"
NOW = 1_800_000_000.0
"""Unix time at which golden repositories are read: after the times that are over, before those that are not."""

FAR = 4_102_444_800.0
"""The year 2100: until then some of their points must be kept, or can be given back."""


class GoldenDisk(msgspec.Struct, frozen=True):
    """``digest``: see :func:`digest_of`; ``blocks``: how many are no holes."""

    disk_id: str
    size_bytes: int
    block_log2: int
    blocks: int
    digest: str


class GoldenPoint(msgspec.Struct, frozen=True):
    """``hidden``: pruned, and to be given back still. ``config``: the configuration of the VM."""

    sid: Sid
    vm: str
    disks: tuple[GoldenDisk, ...]
    config: str
    hidden: bool = False
    until: float = 0.0
    hold: bool = False


class Golden(msgspec.Struct, frozen=True):
    """What an archive must be found to be.

    ``slots``: name → passphrase, "" for a public one. ``removed``: the same of slots that open nothing any more.
    ``records``: rows of an index made of all that is there; ``records_by_packs``: of one made without segments, which
    finds less in a pack that is cut. ``live_records``: of the collector's dry run. ``known``: bad, in quarantine.
    """

    repository_id: str
    slots: dict[str, str]
    removed: dict[str, str]
    paper: tuple[str, ...]
    epoch: int
    host: str
    points: tuple[GoldenPoint, ...]
    retired: tuple[Sid, ...]
    fenced: tuple[Sid, ...]
    dead: Sid
    records: int
    records_by_packs: int
    packs: int
    live_records: int
    known: int


def names() -> list[str]:
    """All golden repositories."""
    return sorted(path.name.removesuffix(".tar.xz") for path in FOLDER.glob("format-*.tar.xz"))


def load(name: str) -> Golden:
    return msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=Golden)


def unpack(name: str, folder: Path) -> None:
    """The repository ``folder``/repository."""
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python knows none yet
        archive.extractall(folder)  # noqa: S202 - our own


def store(name: str, golden: Golden, repository: Path) -> None:
    """Write archive and expectation, without the space reserve, which is no object. Refuses to replace any."""
    with tarfile.open(FOLDER / f"{name}.tar.xz", "x:xz", preset=9) as archive:
        archive.add(repository, "repository", filter=_nameless)
    text = msgspec.json.format(msgspec.json.encode(golden, order="sorted"), indent=1)
    (FOLDER / f"{name}.json").write_bytes(text + b"\n")


def _nameless(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return None if entry.name.endswith("/space-reserve") else entry


def digest_of(blocks: Mapping[int, bytes]) -> str:
    """BLAKE3 over number (8 bytes, little-endian) and content of each block that is no hole, ascending."""
    hasher = blake3()
    for number in sorted(blocks):
        hasher.update(number.to_bytes(8, "little") + blocks[number])
    return hasher.hexdigest()


def restored(repository: Repository, point: Point, keys: RepositoryKeys) -> tuple[tuple[GoldenDisk, ...], str]:
    """The disks of a point and its configuration, every record opened and proved by its id."""
    reader = repository.reader()
    opening = keys.opening_keys()
    disks = []
    for disk in point.disks:
        tree = TreeReader(reader, root_id(disk.root), disk.geometry)
        ids = {number: wanted for number, wanted in enumerate(tree.ids()) if wanted != HOLE}
        plain = {found: open_record(record, opening, found) for found, record in reader.read_many(ids.values())}
        digest = digest_of({number: plain[wanted] for number, wanted in ids.items()})
        disks.append(GoldenDisk(disk.disk_id, disk.size_bytes, disk.block_log2, len(ids), digest))
    assert point.config is not None
    blob_id = root_id(point.config)
    return tuple(disks), open_record(repository.read_blob(blob_id), keys.blob_keys(), blob_id).decode()
