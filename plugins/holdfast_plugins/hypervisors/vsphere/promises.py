"""What a snapshot leaves to be done on the server, as the journal keeps it until it is done."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..tracking_names import parse_tracking_name

SNAPSHOT = "vsphere-snapshot"
"""Obligation to remove a snapshot and to merge what it leaves. ``data``: see :class:`Promised`."""


class Promised(msgspec.Struct, frozen=True):
    """``vm``: its id; ``vm_name``: for people; ``name``: of the snapshot, which no other one has."""

    vm: str
    vm_name: str
    name: str

    def data(self) -> dict[str, str]:
        return msgspec.structs.asdict(self)


def parse_promised(data: Mapping[str, str]) -> Promised | None:
    """None for what this plugin has not written so: the journal may be old or damaged."""
    try:
        promised = msgspec.convert(dict(data), Promised)
    except msgspec.ValidationError:
        return None
    return promised if parse_tracking_name(promised.name) is not None else None
