"""Key slots: the master key, wrapped, as the repository keeps it and cannot open it."""

from __future__ import annotations

import contextlib

import msgspec

from holdfast_agent.errors import AlreadyExists, NotFound, ObjectDamaged, ObjectMissing, UsageError

from . import layout
from .configuration import Config, change_config, read_config, store_slot
from .documents import DocumentType, read_document
from .store import ObjectStore, exists


class KeySlots:
    """The key slots of one repository. Thread-safe."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def all(self) -> dict[str, bytes]:
        """All key slots by name, without removed ones; damaged ones are left out too, and verify names them."""
        return self._readable(read_config(self._store))

    def add(self, name: str, slot: bytes) -> None:
        """Add a wrapped master key. Raises :class:`AlreadyExists`: a slot's name is never used again."""
        if name in read_config(self._store).removed_slots:
            raise AlreadyExists(kind="key slot", name=name)
        store_slot(self._store, name, slot)

    def remove(self, name: str) -> None:
        """Let a slot open nothing any more, then delete its bytes; copies that others made of them stay what they are.

        The decision is a configuration object; a slot whose bytes are still there is passed over from then on. Raises
        :class:`NotFound`, and :class:`UsageError` for the last slot that can be read.
        """

        def without(config: Config) -> Config:
            if name in config.removed_slots or not exists(self._store, f"{layout.KEYS}/{name}"):
                raise NotFound(kind="key slot", name=name, advice="`holdfast key list` shows them")
            if not self._readable(config).keys() - {name}:
                raise UsageError(reason=f"{name!r} is the last key slot of the repository; add another one first")
            return msgspec.structs.replace(config, removed_slots=(*config.removed_slots, name))

        change_config(self._store, without)
        self._store.remove(f"{layout.KEYS}/{name}")

    def _readable(self, config: Config) -> dict[str, bytes]:
        slots: dict[str, bytes] = {}
        for path in self._store.names(layout.KEYS):
            name = path.rpartition("/")[2]
            if name not in config.removed_slots:
                with contextlib.suppress(ObjectDamaged, ObjectMissing):
                    slots[name] = read_document(self._store, path, DocumentType.KEY_SLOT)
        return slots
