"""Exports over NFS, each at an address of its own on the loopback: the portmapper's port is one for each address."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast_agent.wire.specs import ExportDisk
from lab.exports import Export, exported
from lab.movers import Site
from lab.tools import missing

_NUMBERS = itertools.count(1)
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class NfsExport:
    """``urls``: of the disks' descriptors, as QEMU takes them."""

    export: Export
    address: str
    path: str
    urls: tuple[str, ...]


def own_address() -> str:
    """An address of this host that no other test has. Needs root: the portmapper's port is a privileged one."""
    if os.geteuid() != 0:
        missing("the portmapper's port needs root")
    number = next(_NUMBERS)
    return f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}.{number}"


@contextlib.contextmanager
def nfs_exported(
    site: Site,
    disks: tuple[ExportDisk, ...],
    *,
    address: str = "",
    clients: tuple[str, ...] = (LOOPBACK,),
    exports: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Iterator[NfsExport]:
    """As :func:`lab.exports.exported`. ``clients``: who may connect. ``exports``: what else the agent's configuration
    says of exports."""
    address = address or own_address()
    hosts = {"nfs_addresses": (address,)} | dict(exports or {})
    whole: dict[str, Any] = {"writable": True, "keep": True, "listen": "nfs", "clients": clients} | spec
    with exported(site, disks, exports=hosts, **whole) as export:
        parts = [urlsplit(uri) for uri in export.uris]
        assert {part.hostname for part in parts} == {address}
        yield NfsExport(export, address, str(Path(parts[0].path).parent), export.uris)
