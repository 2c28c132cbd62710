"""One run of the collector: it finishes the generation that it finds open, or begins and finishes the next."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast_agent.errors import Cancelled, FormatUnsupported, RepositoryIoError
from holdfast_agent.model.ids import Sid
from holdfast_agent.wire.messages import Collection

from ..repository import Repository
from .census import Census
from .choosing import Choice, choose, rescue
from .compaction import compact
from .consolidation import consolidate
from .draining import drain
from .generations import MOST_CONDEMNED, Generation, current, earlier_roots, forget_begins
from .marking import mark
from .roots import Roots, list_roots
from .runs import SortedRuns
from .sweeping import sweep

Progress = Callable[[str, int, int], None]
"""(phase, done, total): "marking" in nodes and segments (total 0: not known), "compacting" in bytes, "waiting" in
sessions, "sweeping" in packs."""
Release = Callable[[list[str]], list[str]]
"""Of packs that nothing needs those whose files may go; see ``repository.immutability``."""


def collect(
    repository: Repository, *, dry_run: bool = False, progress: Progress = lambda phase, done, total: None,
    stop: threading.Event | None = None, release: Release = list,
) -> Collection:  # fmt: skip
    """Collect garbage beside whoever writes and reads. May be killed at any moment: the next run goes on from there.

    ``progress`` and the check of ``stop`` run in the calling thread. A dry run writes nothing but the scratch files of
    its cache. ``release`` is asked before packs are condemned, and tells which of them can be removed at all; in a dry
    run it must change nothing.

    Raises :class:`CollectionRefused`, :class:`FormatUnsupported`, :class:`Cancelled`, and storage errors; in
    every case nothing that a point needs was touched.
    """
    if repository.bars_collection:
        raise FormatUnsupported(name="collecting garbage", feature=", ".join(repository.bars_collection))
    if not dry_run:
        repository.store.release_reserve()  # a full disk leaves the collector no other space
        repository.recover()  # where there is plenty this sets it aside again at once
    try:
        with _scratch(repository.index.folder) as folder:
            run = _Run(repository, folder, progress, stop or threading.Event(), release)
            return run.rehearse() if dry_run else run.run()
    except OSError as error:  # of the scratch files only: the store translates its own
        reason = error.strerror or str(error)
        raise RepositoryIoError(operation="sorting in", name=str(repository.index.folder), reason=reason) from error
    finally:
        if not dry_run:
            repository.store.keep_reserve()


class _Run:
    def __init__(
        self, repository: Repository, folder: Path, progress: Progress, stop: threading.Event, release: Release
    ) -> None:  # fmt: skip
        self._repository = repository
        self._store = repository.store
        self._folder = folder
        self._progress = progress
        self._stop = stop
        self._release = release

    def rehearse(self) -> Collection:
        with self._marked(given_up=self._repository.due()) as (roots, census, live):
            choice = choose(census, live, roots.active, self._folder)
            choice.moving.close()
            sizes = {census.names[pack]: census.sizes[pack] for pack in (*choice.dead, *choice.sparse)}
            going = self._release(list(sizes))
            moved = sum(choice.sparse.values())
            return msgspec.structs.replace(
                self._described(0, roots, census, choice),
                condemned_packs=len(going),
                swept_packs=len(going),
                moved_bytes=moved,
                freed_bytes=max(0, sum(sizes[pack] for pack in going) - moved),
            )

    def run(self) -> Collection:
        generation = current(self._store)
        report = Collection(generation=generation.number)
        condemned = generation.condemned()
        if condemned is None:
            condemned, report = self._condemn(generation)
        swept = generation.sweep()
        if swept is None and not condemned:
            swept = generation.publish_sweep(())  # nothing goes, so nobody needs to be waited for
        elif swept is None:
            report = msgspec.structs.replace(report, fenced_sessions=self._drain())
            with self._marked() as (_, census, live):
                swept = generation.publish_sweep(rescue(census, live, condemned))
        freed = sweep(self._repository, swept, self._stepper("sweeping", len(swept)))
        generation.done()
        consolidate(self._repository, generation.number)
        forget_begins(self._store, generation.number)
        return msgspec.structs.replace(
            report, condemned_packs=len(condemned), swept_packs=len(swept), freed_bytes=freed
        )

    def _drain(self) -> int:
        waiting = 0

        def left(sessions: int) -> None:
            nonlocal waiting
            waiting = max(waiting, sessions)
            self._progress("waiting", waiting - sessions, waiting)

        return drain(self._repository, self._stop, left)

    def _condemn(self, generation: Generation) -> tuple[tuple[str, ...], Collection]:
        self._repository.retire()
        with self._marked() as (roots, census, live):
            generation.begin(roots.sids)
            choice = choose(census, live, roots.active, self._folder)
            with choice.moving:
                step = self._stepper("compacting", sum(choice.sparse.values()))
                emptied, moved = compact(self._repository, census, choice, step)
            names = self._release([census.names[pack] for pack in (*choice.dead, *emptied)])[:MOST_CONDEMNED]
            report = self._described(generation.number, roots, census, choice)
        return generation.condemn(names), msgspec.structs.replace(report, moved_bytes=moved)

    @contextmanager
    def _marked(self, given_up: Sequence[Sid] = ()) -> Iterator[tuple[Roots, Census, SortedRuns]]:
        """Packs, then roots, then what the roots need: a pack that is not listed here cannot be judged by mistake."""
        step = self._stepper("marking", 0)
        with Census.take(self._repository, self._folder, step) as census:
            roots = list_roots(self._repository, census.names, earlier_roots(self._store), given_up)
            with mark(self._repository.reader(), roots.points, self._folder, step) as live:
                yield roots, census, live

    def _described(self, generation: int, roots: Roots, census: Census, choice: Choice) -> Collection:
        return Collection(
            generation=generation,
            packs=len(census.names),
            stored_bytes=sum(census.sizes),
            points=len(roots.points),
            live_records=choice.live_records,
            live_bytes=choice.live_bytes,
            lost_records=self._count_lost(choice),
        )

    def _count_lost(self, choice: Choice) -> int:
        """Records that were written after the census are not lost: the index knows them by now."""
        self._repository.index.update()
        return len(choice.lost) - len(self._repository.index.find(choice.lost))

    def _stepper(self, phase: str, total: int) -> Callable[[int], None]:
        done = 0

        def step(amount: int) -> None:
            nonlocal done
            if self._stop.is_set():
                raise Cancelled(reason="garbage collection was stopped")
            done += amount
            self._progress(phase, done, total)

        return step


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A folder for what is sorted; clears those of dead collectors."""
    for left in cache.glob("gc-*-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"gc-{os.getpid()}-", dir=cache) as folder:
        yield Path(folder)
