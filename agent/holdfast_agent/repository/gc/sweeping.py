"""The sweep: exactly the packs of the published list, their index rows first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import islice

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing
from holdfast_agent.sealing.keys import repository_id_bytes

from ..layout import pack_object
from ..packs import read_contents
from ..repository import Repository

_BATCH = 128  # packs between two syncs of their folders


def sweep(repository: Repository, packs: Sequence[str], step: Callable[[int], None]) -> int:
    """Remove ``packs``, durably; how many bytes they had. Those that are gone already are fine.

    Rows of the local index go first, so that it never leads the store. ``step`` is told of every pack and may raise.
    """
    freed = 0
    remaining = iter(packs)
    while batch := list(islice(remaining, _BATCH)):
        for name in batch:
            freed += _forget(repository, name)
            step(1)
        repository.store.remove_all(pack_object(name) for name in batch)
    return freed


def _forget(repository: Repository, name: str) -> int:
    try:
        contents = read_contents(repository.store, name, repository_id_bytes(repository.repository_id))
    except ObjectMissing:
        repository.index.forget(name, None)
        return 0
    except (ObjectDamaged, FormatUnsupported):
        repository.index.forget(name, None)
    else:
        repository.index.forget(name, (entry.id for entry in contents.entries))
    with contextlib.suppress(ObjectMissing):
        return repository.store.size(pack_object(name))
    return 0
