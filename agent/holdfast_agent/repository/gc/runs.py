"""Sorting more than fits in memory: fixed-width byte strings, as sorted runs in an unlinked file, merged on reading."""

from __future__ import annotations

import heapq
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from holdfast_agent.descriptors import write_at

_KEPT = 1 << 17  # records in memory: 10 to 15 MiB
_READ_BYTES = 64 << 10  # of each run while merging: 10⁸ records make some 800 runs, so 50 MiB


class SortedRuns:
    """A set of byte strings, all ``width`` bytes long. First everything is added, then it is read, as often as needed.

    Memory is bounded whatever is added. One owner thread; close it to give the file's space back.
    """

    def __init__(self, width: int, folder: Path, kept: int = _KEPT) -> None:
        """``folder``: where the file lies; the cache, since it may grow to gigabytes."""
        self._width = width
        self._folder = folder
        self._kept = kept
        self._held: list[bytes] = []
        self._runs: list[tuple[int, int]] = []
        self._file: int | None = None

    def __enter__(self) -> SortedRuns:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def add(self, records: Iterable[bytes]) -> None:
        """Add records; the same one may come again."""
        remaining = iter(records)
        while batch := list(itertools.islice(remaining, self._kept - len(self._held))):
            self._held += batch
            if len(self._held) >= self._kept:
                self._spill()

    def __iter__(self) -> Iterator[bytes]:
        """Every record once, ascending. Nothing may be added while somebody reads."""
        if self._runs and self._held:
            self._spill()
        if self._runs:
            merged: Iterable[bytes] = heapq.merge(*(self._read(start, end) for start, end in self._runs))
        else:
            self._held.sort()
            merged = self._held
        for record, _ in itertools.groupby(merged):
            yield record

    def close(self) -> None:
        """Drop everything. Idempotent."""
        self._held.clear()
        self._runs.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _spill(self) -> None:
        if self._file is None:
            fd, path = tempfile.mkstemp(prefix="sorted-", dir=self._folder)
            Path(path).unlink()
            self._file = fd
        self._held.sort()
        data = b"".join(record for record, _ in itertools.groupby(self._held))
        self._held.clear()
        start = self._runs[-1][1] if self._runs else 0
        self._runs.append((start, start + len(data)))
        write_at(self._file, start, data)

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        if self._file is None:
            raise ValueError("the runs are closed")
        width = self._width
        step = _READ_BYTES - _READ_BYTES % width
        while start < end:
            chunk = os.pread(self._file, min(step, end - start), start)
            if len(chunk) % width or not chunk:
                raise OSError("a run of sorted records is cut off")
            for place in range(0, len(chunk), width):
                yield chunk[place : place + width]
            start += len(chunk)
