"""Which ways a proxy has to a disk, and which proxies have better ones than others. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from ..options import ProxyOptions, Transport

_NETWORK_STORES = ("NFS", "NFS41", "CIFS")
_OBJECT_STORES = ("vsan", "VVOL", "vsanD")
"""Kinds of datastores (``summary.type``) that keep disks as objects of their own, which are no files anywhere."""


class DiskFacts(msgspec.Struct, frozen=True):
    """``vm`` and ``vm_id``: whose it is. ``datastore`` and ``kind``: where it lies, and the datastore's type, "" if
    that is not known. ``delta``: it lies over a snapshot of somebody else's, and is no plain file."""

    vm: str
    vm_id: str
    datastore: str
    kind: str = ""
    delta: bool = False


class Choice(msgspec.Struct, frozen=True):
    """``ways``: the best first. ``refused``: why the others are none, as far as the proxy is set up for them."""

    ways: tuple[Transport, ...]
    refused: Mapping[Transport, str]

    @property
    def reason(self) -> str:
        """Why there is no way, in one sentence."""
        return "; ".join(f"{transport}: {reason}" for transport, reason in self.refused.items()) or "none is set up"


def writing(order: Sequence[Transport]) -> tuple[Transport, ...]:
    """Those of ``order`` by which a disk that is there can be written in part. What is put over HTTPS is put whole."""
    return tuple(transport for transport in order if transport is not Transport.HTTPS)


def choose(order: Sequence[Transport], disk: DiskFacts, proxy: ProxyOptions) -> Choice:
    """The ways of ``order`` by which ``proxy`` gets at ``disk``; what opens first is used."""
    ways, refused = [], {}
    for transport in dict.fromkeys(order):
        reason = _reason_against(transport, disk, proxy)
        if reason is None:
            ways.append(transport)
        elif reason:
            refused[transport] = reason
    return Choice(tuple(ways), refused)


def turned(ways: Sequence[Transport], attempts: int) -> tuple[Transport, ...]:
    """``ways`` for an attempt after ``attempts`` others, each of which may have failed by its first way."""
    first = attempts % len(ways) if ways else 0
    return (*ways[first:], *ways[:first])


def nearest(
    order: Sequence[Transport], disk: DiskFacts, proxies: Mapping[str, ProxyOptions]
) -> tuple[tuple[str, ...], ...]:
    """Proxies by name that have a better way than one of which nothing is said, in groups by that way."""
    usual = choose(order, disk, ProxyOptions()).ways
    better = order[: order.index(usual[0])] if usual else order
    groups: defaultdict[Transport, list[str]] = defaultdict(list)
    for name, proxy in sorted(proxies.items()):
        ways = choose(better, disk, proxy).ways
        if ways:
            groups[ways[0]].append(name)
    return tuple(tuple(groups[transport]) for transport in better if groups[transport])


def _reason_against(transport: Transport, disk: DiskFacts, proxy: ProxyOptions) -> str | None:
    """None: nothing is against it. Empty: the proxy is not set up for it, which needs no words."""
    match transport:
        case Transport.HOTADD:
            if not proxy.vm:
                return ""
            return "it is the proxy's own disk" if proxy.vm in (disk.vm, disk.vm_id) else None
        case Transport.NFS | Transport.SAN:
            if disk.datastore not in proxy.mounts or (transport is Transport.NFS) != (disk.kind in _NETWORK_STORES):
                return ""
            return _no_file(disk)
        case Transport.HTTPS:
            return _no_file(disk)
        case Transport.NBD:
            return None if proxy.vddk else ""


def _no_file(disk: DiskFacts) -> str | None:
    if disk.delta:
        return "the VM has a snapshot of somebody else's, and what lies over one is no plain file"
    if disk.kind in _OBJECT_STORES:
        return f"its datastore {disk.datastore} ({disk.kind}) has no files"
    return None
