"""Making a repository, and its configuration: what it is and which features it asks of those who use it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from holdfast_agent.durable import sync_folder
from holdfast_agent.errors import (
    AlreadyExists,
    FormatUnsupported,
    ObjectMissing,
    RepositoryDenied,
    RepositoryExists,
    RepositoryFolderMissing,
    UsageError,
)
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.sealing.keys import FIRST_EPOCH, repository_id_bytes
from holdfast_agent.sealing.slots import MOST_SLOT_BYTES

from . import layout
from .documents import DocumentType, encode_document, read_value
from .store import ObjectExists, ObjectStore

_FORMAT = "holdfast 1"
_NAME = re.compile(rf"{layout.CONFIG}/(\d{{6,9}})")
_FOLDERS = (
    layout.CONFIG, layout.KEYS, layout.PACKS, layout.INDEX, layout.SESSIONS, layout.POINTS, layout.TOMBSTONES,
    layout.RETENTION, layout.GC, layout.QUARANTINE, layout.TMP,
)  # fmt: skip


class Config(msgspec.Struct, frozen=True):
    """Body of config/<number>. Features that this version does not know bar it from reading, writing or collecting.

    ``removed_slots``: names of key slots that open nothing any more, never to be used again. ``epoch``: of the keys
    that new records are to be sealed under. ``host``: the only agent that may use the repository; see ``claims``.
    """

    repository_id: str
    created: float
    format: str = _FORMAT
    read_features: tuple[str, ...] = ()
    write_features: tuple[str, ...] = ()
    gc_features: tuple[str, ...] = ()
    removed_slots: tuple[str, ...] = ()
    epoch: int = FIRST_EPOCH
    host: RepositoryHost | UnsetType = UNSET


def make_folders(path: Path) -> None:
    """All folders of a repository, durable. Raises as ``create_repository``."""
    _make_root(path)
    folders = [path / name for name in _FOLDERS]
    folders += [path / layout.PACKS / pack_class for pack_class in layout.PACK_CLASSES]
    folders += [path / layout.PACKS / pack_class / fan for pack_class in layout.PACK_CLASSES for fan in layout.FAN_OUT]
    try:
        for folder in folders:
            folder.mkdir(mode=0o700)
        parents = (path.parent, path, *(path / layout.PACKS / name for name in ("", *layout.PACK_CLASSES)))
        for parent in parents:
            sync_folder(parent)
    except OSError as error:
        raise RepositoryDenied(path=str(path), reason=error.strerror or str(error)) from error


def _make_root(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        try:
            if any(path.iterdir()):
                raise RepositoryExists(path=str(path)) from None
            path.chmod(0o700)
        except OSError as error:
            raise RepositoryDenied(path=str(path), reason=error.strerror or str(error)) from error
    except FileNotFoundError:
        raise RepositoryFolderMissing(path=str(path.parent)) from None
    except OSError as error:
        raise RepositoryDenied(path=str(path), reason=error.strerror or str(error)) from error


def store_slot(store: ObjectStore, name: str, slot: bytes) -> None:
    """Store a key slot. Raises :class:`UsageError` for its name, :class:`AlreadyExists`."""
    if not layout.is_slot_name(name) or len(slot) > MOST_SLOT_BYTES:
        raise UsageError(reason=f"{name!r} is not a name for a key slot, or the slot is too long")
    path = f"{layout.KEYS}/{name}"
    try:
        store.create(path, [encode_document(path, DocumentType.KEY_SLOT, slot)])
    except ObjectExists:
        raise AlreadyExists(kind="key slot", name=name) from None


def store_config(store: ObjectStore, config: Config, number: int = 1) -> None:
    """Store a configuration; with the first one the directory is a repository. Raises :class:`ObjectExists`."""
    name = _config_object(number)
    store.create(name, [encode_document(name, DocumentType.CONFIG, msgspec.json.encode(config, order="sorted"))])


def change_config(store: ObjectStore, change: Callable[[Config], Config]) -> Config:
    """Put a configuration with the next number in the place of the present one; what holds from now on.

    ``change`` is asked again when somebody else was quicker, so that it always decides on what holds; what it raises
    ends this. Raises as :func:`read_config` too.
    """
    while True:
        number = _newest(store)  # before the reading: if a newer one comes between, its number is taken
        changed = change(read_config(store))
        with contextlib.suppress(ObjectExists):
            store_config(store, changed, number + 1)
            return changed


def _config_object(number: int) -> str:
    return f"{layout.CONFIG}/{number:06}"


def _newest(store: ObjectStore) -> int:
    """The highest number; 0 if there is no configuration."""
    found = (_NAME.fullmatch(name) for name in store.names(layout.CONFIG))
    return max((int(match[1]) for match in found if match), default=0)


def read_config(store: ObjectStore) -> Config:
    """The configuration with the highest number. Raises :class:`ObjectMissing` if there is none."""
    newest = _newest(store)
    if not newest:
        raise ObjectMissing(name=layout.CONFIG)
    config = read_value(store, _config_object(newest), DocumentType.CONFIG, Config)
    if config.format != _FORMAT or config.read_features:
        raise FormatUnsupported(name="the repository", feature=f"{config.format} {', '.join(config.read_features)}")
    repository_id_bytes(config.repository_id)
    return config
