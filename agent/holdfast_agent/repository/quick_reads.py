"""Many small reads of few records: where each stands is remembered, and nothing is checked that its reader proves."""

from __future__ import annotations

from collections import OrderedDict

from holdfast_agent.errors import RepositoryError
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.buffers import ThreadBuffer
from holdfast_agent.sealing.records import MOST_RECORD_BYTES, Pieces, split_record

from .layout import pack_object
from .readers import BlockReader
from .store import ObjectStore

_MOST_HOMES = 1 << 15  # some 8 MiB


class QuickReader:
    """Beside a :class:`BlockReader`, for records that are opened by their seal. Thread-safe; holds nothing open."""

    def __init__(self, store: ObjectStore, reader: BlockReader) -> None:
        self._store = store
        self._reader = reader
        self._homes: OrderedDict[BlockId, tuple[str, int, int]] = OrderedDict()

    def read(self, record_id: BlockId) -> Pieces | None:
        """What stands in the record's first home, as it stands there; the thread's next call overwrites it.

        None where nothing is to be had, which says nothing about the record: a collector may have moved it. Who gets
        None, or something that cannot be opened, asks the :class:`BlockReader`, which knows the other homes and tells
        of damage.
        """
        try:
            home = self._homes.get(record_id) or self._find(record_id)
            if home is None:
                return None
            name, offset, length = home
            record = _read.view(length)
            if self._store.read_into(name, offset, record) == length:
                return split_record(record)
        except RepositoryError:
            pass  # it is told by the reader that is asked next
        self.forget(record_id)
        return None

    def forget(self, record_id: BlockId) -> None:
        """What stands there was not the record: the next :meth:`read` looks for its home anew."""
        self._homes.pop(record_id, None)

    def _find(self, record_id: BlockId) -> tuple[str, int, int] | None:
        (found,) = self._reader.locate([record_id])
        if found is None or found.length > MOST_RECORD_BYTES:
            return None
        home = self._homes[record_id] = (pack_object(found.pack), found.offset, found.length)
        if len(self._homes) > _MOST_HOMES:
            self._homes.popitem(last=False)
        return home


_read = ThreadBuffer()
