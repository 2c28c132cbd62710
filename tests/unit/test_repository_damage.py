"""Every kind of object with every kind of damage: found, named, never handed out as data; all else restores."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import HoldfastError, ObjectDamaged
from holdfast_agent.repository import layout
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import VerifyReport, verify
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.paper import decode_paper
from holdfast_agent.sealing.roots import open_point
from lab import golden

NAME = "format-1-encrypted"

# kind of object → what its name looks like in the repository
KINDS = {
    "config, present": rf"{layout.CONFIG}/000005",
    "config, older": rf"{layout.CONFIG}/000002",
    "key slot": rf"{layout.KEYS}/.*",
    "data pack": rf"{layout.PACKS}/d/.*",
    "meta pack": rf"{layout.PACKS}/m/.*",
    "segment": rf"{layout.INDEX}/[0-9a-f]{{32}}-.*",
    "base segment": rf"{layout.INDEX}/base-.*",
    "point": rf"{layout.POINTS}/.*",
    "fenced": rf"{layout.POINTS}/707525164c82bcc2ccc0c6e39cc83415",
    "tombstone": rf"{layout.TOMBSTONES}/[^.]*",
    "end": rf"{layout.TOMBSTONES}/.*\.end",
    "undone": rf"{layout.TOMBSTONES}/.*\.undone",
    "retention": rf"{layout.RETENTION}/.*",
    "note of a pack": rf"{layout.QUARANTINE}/[^.]*",
    "note of records": rf"{layout.QUARANTINE}/[0-9a-f]{{32}}.*\..*",
    "note of no pack": rf"{layout.QUARANTINE}/none\..*",
    "gc begin": rf"{layout.GC}/.*\.begin",
    "gc condemned": rf"{layout.GC}/.*\.condemned",
    "gc sweep": rf"{layout.GC}/.*\.sweep",
    "gc done": rf"{layout.GC}/.*\.done",
    "session": rf"{layout.SESSIONS}/.*",
}
Damage = Callable[[bytes, bytes, bytes], bytes]
"""(the object, another of its kind, one of another kind) → what stands under its name then."""


def _flip(part: float) -> Damage:
    def damage(data: bytes, same: bytes, other: bytes) -> bytes:
        at = int(part * (len(data) - 1))
        return data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]

    return damage


DAMAGES: dict[str, Damage] = {
    "flipped at its head": _flip(0.0),
    "flipped in its middle": _flip(0.5),
    "flipped at its end": _flip(1.0),
    "cut to half": lambda data, same, other: data[: len(data) // 2],
    "cut to nothing": lambda data, same, other: b"",
    "its last byte gone": lambda data, same, other: data[:-1],
    "something behind it": lambda data, same, other: data + b"\0",
    "zeroed": lambda data, same, other: bytes(len(data)),
    "its second half zeroed": lambda data, same, other: data[: len(data) // 2].ljust(len(data), b"\0"),
    "a huge length": lambda data, same, other: data[:8] + b"\xff\xff\xff\x7f" + data[12:],
    "another of its kind": lambda data, same, other: same,
    "one of another kind": lambda data, same, other: other,
}


class Stand:
    """The golden repository, damaged and mended again and again."""

    def __init__(self, folder: Path) -> None:
        golden.unpack(NAME, folder)
        self.folder = folder
        self.path = folder / "repository"
        self.expected = golden.load(NAME)
        master, _ = decode_paper("\n".join(self.expected.paper))
        self.keys = RepositoryKeys.derive(master, self.expected.repository_id, self.expected.epoch)
        self.files = sorted(path for path in self.path.rglob("*") if path.is_file())

    def of_kind(self, kind: str) -> list[Path]:
        """The largest first: there is something in it that a point needs."""
        found = [path for path in self.files if re.fullmatch(KINDS[kind], str(path.relative_to(self.path)))]
        assert found, f"there is no {kind}"
        return sorted(found, key=lambda path: path.stat().st_size, reverse=True)

    def open(self) -> Repository:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        return Repository.open(self.path, self.folder / "cache", clock=lambda: golden.NOW)

    @contextlib.contextmanager
    def damaged(self, kind: str, damage: Damage) -> Iterator[Path]:
        """An object of that kind with the damage inside, and as it was again after it."""
        path, *others = self.of_kind(kind)
        (foreign,) = self.of_kind("fenced" if kind != "fenced" else "config, older")
        whole, other = path.read_bytes(), foreign.read_bytes()
        changed = damage(whole, others[0].read_bytes() if others else other, other)
        assert changed != whole
        path.write_bytes(changed)
        try:
            yield path
        finally:
            path.write_bytes(whole)
            for note in {found for found in self.path.rglob("*") if found.is_file()} - set(self.files):
                note.unlink()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return Stand(tmp_path_factory.mktemp("damage"))


def check(stand: Stand, path: Path, kind: str) -> None:
    name = str(path.relative_to(stand.path))
    try:
        repository = stand.open()
    except ObjectDamaged as error:
        assert kind == "config, present" and name in str(error)
        return
    assert kind != "config, present"
    report = verify(repository, 2, keys=stand.keys)
    assert names(report, name), f"{name} is not among what was found: {report.findings}"
    lost = {sid for finding in report.findings if finding.lost for sid in finding.points}
    for point in stand.expected.points:
        try:
            entry = repository.committed(point.sid)
            assert entry is not None
            found = golden.restored(repository, open_point(entry, stand.keys), stand.keys)
        except HoldfastError:
            assert point.sid in lost or point.hidden, f"{point.sid} is not said to be lost"
        else:
            assert found == (point.disks, point.config), "damage was handed out as data"
            assert point.sid not in lost or "pack" in kind  # a pack whose size is wrong counts for nothing
    check_nothing_is_set_free(stand, repository)
    repository.close()


def names(report: VerifyReport, name: str) -> bool:
    """Whether a finding speaks of the object, or of a record in it."""
    last = name.rpartition("/")[2]
    return any(last in finding.object for finding in report.findings)


def check_nothing_is_set_free(stand: Stand, repository: Repository) -> None:
    """No point is taken for retired, and what is protected stays so, whatever cannot be read."""
    committed = {point.sid for point in stand.expected.points}
    assert committed <= set(repository.roots())
    for point in stand.expected.points:
        if point.hold or point.until > golden.NOW:
            with pytest.raises(HoldfastError):
                repository.tombstone(point.sid)
    with contextlib.suppress(HoldfastError):
        collect(repository, dry_run=True)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_every_kind_is_found_and_named(stand: Stand, kind: str, damage: str) -> None:
    with stand.damaged(kind, DAMAGES[damage]) as path:
        check(stand, path, kind)
