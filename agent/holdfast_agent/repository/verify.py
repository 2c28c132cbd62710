"""Verification: what is damaged or missing, which restore points it touches, and whether data is lost.

Level 0: points, nodes, index, packs present with their sizes. Level 1: every pack read, BLAKE3 and CRCs. Level 2,
with keys: every record that a point refers to is opened and its id computed anew. Damage is reported, never raised.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from holdfast_agent.errors import Cancelled, ObjectDamaged, ObjectMissing, RepositoryError
from holdfast_agent.model.ids import Sid
from holdfast_agent.sealing.keys import RepositoryKeys, repository_id_bytes
from holdfast_agent.wire.messages import Finding, VerifyBudget

from . import layout
from .check_times import CheckTimes
from .collector_log import packs_swept
from .documents import MOST_DOCUMENT_BYTES, DocumentType, decode_document
from .findings import Findings
from .index import LocalIndex
from .pack_checks import choose_packs, in_parallel
from .packs import PackCheck, check_pack, check_table
from .pins import pinned
from .point_checks import PointWalk
from .quarantine import Quarantine
from .repository import Repository
from .segments import MOST_SEGMENT_BYTES, decode_segment

Progress = Callable[[int, int], None]
_DOCUMENTS = (
    ("key slot", layout.KEYS, (DocumentType.KEY_SLOT,)),
    ("configuration", layout.CONFIG, (DocumentType.CONFIG,)),
    ("tombstone", layout.TOMBSTONES, (DocumentType.TOMBSTONE, DocumentType.UNDONE, DocumentType.RETIRED)),
    ("retention", layout.RETENTION, (DocumentType.RETENTION,)),
    ("quarantine", layout.QUARANTINE, (DocumentType.QUARANTINE,)),
    ("session", layout.SESSIONS, (DocumentType.SESSION,)),
    (
        "log",
        layout.GC,
        (DocumentType.GC_BEGIN, DocumentType.GC_CONDEMNED, DocumentType.GC_SWEEP, DocumentType.GC_DONE),
    ),
)
_NO_BUDGET = VerifyBudget()


class VerifyReport(msgspec.Struct, frozen=True):
    """What was found. No findings: everything that was looked at is as it must be.

    ``packs_checked`` were read; ``packs_left``: the budget left so many unread that were due or not. ``known``: bad
    things in quarantine that cost no data (any more). ``noted``: new notes in quarantine.
    """

    findings: tuple[Finding, ...]
    objects_checked: int
    checked_bytes: int
    packs_checked: int = 0
    packs_left: int = 0
    known: int = 0
    noted: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(
    repository: Repository,
    level: int,
    points: Sequence[Sid] | None = None,
    keys: RepositoryKeys | None = None,
    on_progress: Progress = lambda checked, total: None,
    cancel: Callable[[], bool] = lambda: False,
    budget: VerifyBudget = _NO_BUDGET,
    tables: bool = False,
    put_aside: bool = False,
) -> VerifyReport:
    """Verify ``points`` (None: all) at ``level`` 0 to 2; with ``points`` given, damage elsewhere is reported too.

    ``keys`` are needed for level 2; with them the MACs of points are checked at every level. ``budget`` bounds the
    reading of packs. ``tables``: at level 0 read the packs' tables of contents besides. ``put_aside``: note what is
    bad in quarantine, so that the next backup stores it again; nothing is ever deleted. ``on_progress`` gets
    (checked, total) bytes of packs, ``cancel`` is asked before every object; both run in the calling thread. Raises
    :class:`Cancelled` only, and storage errors of the whole repository (not mounted).
    """
    if not 0 <= level <= 2 or (level == 2 and keys is None):
        raise ValueError("levels are 0, 1 and, with keys, 2")
    with _scratch(repository.index.folder) as folder, pinned(repository) as leaving:
        # A private index, read from the store at this moment: the shared one is a cache and may hide what is lost.
        index = LocalIndex(folder, repository.repository_id, repository.store)
        try:
            run = _Verification(repository, index, level, keys, on_progress, cancel, leaving)
            return run.run(points, budget, tables, put_aside)
        finally:
            index.close()


@contextlib.contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A folder for the private index (some 60 bytes a record: too much for a tmpfs); clears those of dead processes."""
    for left in cache.glob("verify-*-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"verify-{os.getpid()}-", dir=cache) as folder:
        yield Path(folder)


class _Verification:
    """One run."""

    def __init__(
        self,
        repository: Repository,
        index: LocalIndex,
        level: int,
        keys: RepositoryKeys | None,
        on_progress: Progress,
        cancel: Callable[[], bool],
        leaving: frozenset[str],
    ) -> None:
        """``leaving``: packs that a collector may remove at any moment; what is live in them has other homes."""
        self._leaving = leaving
        self._repository = repository
        self._repository_id = repository_id_bytes(repository.repository_id)
        self._store = repository.store
        self._index = index
        self._level = level
        self._keys = keys
        self._on_progress = on_progress
        self._cancel = cancel
        self._findings = Findings()
        self._times = CheckTimes(repository.index.folder)
        self._sizes: dict[str, int] = {}
        self._objects = 0
        self._checked = 0
        self._total = 0
        self._packs_checked = 0

    def run(self, points: Sequence[Sid] | None, budget: VerifyBudget, tables: bool, put_aside: bool) -> VerifyReport:
        self._check_documents()
        self._check_segments()
        self._guarded("log", layout.GC, lambda: packs_swept(self._store))
        quarantine = Quarantine.read(self._store)
        sids = points if points is not None else self._repository.point_sids()
        # After the points, whose records it then knows, by whatever still tells of them.
        self._index.complete(self._unreadable)
        digests = self._check_presence()
        if self._level >= 1:
            self._read_packs(digests, budget)
        elif tables:
            self._read_tables(digests)
        self._check_points(sids, points is not None, quarantine)
        noted = self._put_aside() if put_aside else 0
        known = self._findings.drop_known(quarantine)
        left = len(self._staying()) - self._packs_checked if self._level >= 1 else 0
        return VerifyReport(
            self._findings.listed(), self._objects, self._checked, self._packs_checked, left, known, noted
        )

    def _unreadable(self, pack: str, error: RepositoryError) -> None:
        """No segment names a pack, and the storage does not read what it holds."""
        self._findings.bad_pack(pack, error.text)

    def _put_aside(self) -> int:
        """Note what is bad; storage that takes no notes is a finding itself, and costs none of the others."""
        try:
            # No pack at all where there must be some: that is storage not mounted, and no reason to store all again.
            return self._findings.put_aside(self._store, packs=bool(self._sizes))
        except RepositoryError as error:
            self._findings.report("quarantine", layout.QUARANTINE, f"what is bad could not be put aside: {error.text}")
            return 0

    def _check_documents(self) -> None:
        """All but the outcomes. What cannot be read among them only bars or protects, which people ought to know."""
        for kind, folder, types in _DOCUMENTS:
            for name in sorted(self._store.names(folder)):
                self._guarded(kind, name, partial(self._read_document, name, types))

    def _read_document(self, name: str, types: tuple[DocumentType, ...]) -> None:
        with contextlib.suppress(ObjectMissing):  # of a session that ended, or a generation that is over
            found, _, _ = decode_document(name, self._store.read(name, MOST_DOCUMENT_BYTES))
            if found not in types:
                raise ObjectDamaged(name=name, offset_bytes=5, reason=f"a {found.name} does not belong here")

    def _check_segments(self) -> None:
        for name in sorted(self._store.names(layout.INDEX)):
            self._guarded("segment", name, partial(self._read_segment, name))

    def _read_segment(self, name: str) -> None:
        with contextlib.suppress(ObjectMissing):  # a collector has put another in its place
            self._decode_segment(name)

    def _decode_segment(self, name: str) -> None:
        decode_segment(name, self._store.read(name, MOST_SEGMENT_BYTES), self._repository_id)

    def _check_presence(self) -> dict[str, bytes]:
        """Every pack that the index knows is there with its size. The BLAKE3 that each must have, by name."""
        expected = {name: (size, digest) for name, size, digest in self._index.packs()}
        present = {name.rpartition("/")[2]: name for name in self._store.names(layout.PACKS)}
        for name, path in sorted(present.items()):
            try:
                self._sizes[name] = self._store.size(path)
            except ObjectMissing:
                continue  # judged below, as one that was never listed
            except RepositoryError as error:
                self._findings.bad_pack(name, error.text)
        swept = _packs_swept(self._repository)
        for name, (size, _) in sorted(expected.items()):
            if name not in self._sizes:
                if name not in swept and name not in self._leaving:
                    self._findings.bad_pack(name, "it is missing")
            elif self._sizes.get(name, size) != size:
                self._findings.bad_pack(name, f"it has {self._sizes[name]} bytes and must have {size}")
        return {name: digest for name, (_, digest) in expected.items()}

    def _read_packs(self, digests: dict[str, bytes], budget: VerifyBudget) -> None:
        due = choose_packs(self._staying(), self._times.all(), budget, time.time())
        self._total = sum(self._sizes[name] for name in due) * self._level
        whole: list[str] = []
        read = partial(check_pack, self._store, repository_id=self._repository_id)
        for name, check in in_parallel(due, read, self._cancel, budget.max_duration_s):
            if self._judge(name, check, digests):
                whole.append(name)
            self._packs_checked += 1
            self._advance(self._sizes[name])
        self._step()
        self._times.note(whole, time.time())

    def _read_tables(self, digests: dict[str, bytes]) -> None:
        read = partial(check_table, self._store, repository_id=self._repository_id)
        for name, check in in_parallel(sorted(self._staying()), read, self._cancel):
            self._judge(name, check, digests)

    def _staying(self) -> list[str]:
        return [name for name in self._sizes if name not in self._leaving]

    def _judge(self, name: str, check: PackCheck | Exception, digests: dict[str, bytes]) -> bool:
        """Report what the reading of a pack found; whether it is whole. A defect of ours is raised."""
        self._step()
        if isinstance(check, RepositoryError):
            self._findings.bad_pack(name, check.text)
            return False
        if isinstance(check, Exception):
            raise check
        problem = check.problem
        if problem is None and digests.get(name) and check.contents.digest != digests[name]:
            problem = "its BLAKE3 is not the one in the index"
        if problem:
            self._findings.bad_pack(name, problem)
        for record_id, reason in check.bad:
            self._findings.bad_record(record_id, name, reason)
        return not problem and not check.bad

    def _check_points(self, sids: Sequence[Sid], asked_for: bool, quarantine: Quarantine) -> None:
        walk = PointWalk(
            self._repository,
            self._index,
            self._findings,
            self._sizes,
            quarantine,
            self._keys,
            self._level,
            self._step,
            self._advance,
            self._leaving,
        )
        for sid in sids:
            walk.check(sid, asked_for)

    def _guarded(self, kind: str, name: str, check: Callable[[], object]) -> None:
        self._step()
        try:
            check()
        except RepositoryError as error:
            self._findings.report(kind, name, error.text)

    def _step(self) -> None:
        if self._cancel():
            raise Cancelled(reason="the verification was stopped")
        self._objects += 1

    def _advance(self, checked_bytes: int) -> None:
        self._checked += checked_bytes
        self._on_progress(self._checked, max(self._total, self._checked))


def _packs_swept(repository: Repository) -> frozenset[str]:
    """Packs that a collector has swept; none if its log is damaged, which is a finding of its own."""
    try:
        return packs_swept(repository.store)
    except RepositoryError:
        return frozenset()
