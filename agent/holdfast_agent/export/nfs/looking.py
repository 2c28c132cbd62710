"""Procedures of NFS 3 that change nothing (RFC 1813, section 3.3). Each takes its arguments and gives its result."""

from __future__ import annotations

from collections.abc import Callable

from .names import Node, name_of
from .protocol import MOST_IO_BYTES, MOST_NAME_BYTES, Refusal, Status
from .rpc import Parts
from .share import Share
from .values import attributes, attributes_after, handle_of, take_handle
from .xdr import Reader, boolean, opaque, padding, uhyper, uint

MOST_LISTING_BYTES = 64 << 10
_PREFERRED_LISTING_BYTES = 16 << 10
_BLOCK = 4096
_ALL_RIGHTS = 0x3F
_MOST_FILE_BYTES = (1 << 63) - 1
_HOMOGENEOUS, _CAN_SET_TIME = 0x8, 0x10
_NANOSECOND = (0, 1)
_ZEROS = memoryview(bytes(MOST_IO_BYTES))
_OK = uint(Status.OK)
Entry = Callable[[Node, str, int], bytes]
"""What is said of a node, which has a name and a place in the folder."""

_HERE, _ABOVE = 1, 2  # places of "." and ".." in a folder; those of others are their numbers


def getattr3(share: Share, reader: Reader) -> Parts:
    return [_OK, attributes(share, share.facts(take_handle(reader, share)))]


def lookup(share: Share, reader: Reader) -> Parts:
    parent, name = take_handle(reader, share), name_of(reader.opaque(MOST_NAME_BYTES * 4))
    number = share.lookup(parent, name)
    return [_OK, handle_of(share, number), attributes_after(share, number), attributes_after(share, parent)]


def access(share: Share, reader: Reader) -> Parts:
    """Who may connect may do all."""
    number, wanted = take_handle(reader, share), reader.uint()
    found = boolean(True) + attributes(share, share.facts(number))
    return [_OK, found, uint(wanted & _ALL_RIGHTS)]


def read(share: Share, reader: Reader) -> Parts:
    number, offset, length = take_handle(reader, share), reader.uhyper(), reader.uint()
    parts: Parts = [
        _ZEROS[:part] if isinstance(part, int) else part
        for part in share.read(number, offset, min(length, MOST_IO_BYTES))
    ]
    count = sum(map(len, parts))
    facts = share.facts(number)
    end = offset + count >= facts.size_bytes
    found = boolean(True) + attributes(share, facts)
    return [_OK, found, uint(count), boolean(end), uint(count), *parts, padding(count)]


def readdir(share: Share, reader: Reader) -> Parts:
    number, cookie, _, most = take_handle(reader, share), reader.uhyper(), reader.uhyper(), reader.uint()

    def entry(node: Node, name: str, place: int) -> bytes:
        return uhyper(node.number) + opaque(name.encode()) + uhyper(place)

    return _listing(share, number, cookie, most, entry_of=entry)


def readdirplus(share: Share, reader: Reader) -> Parts:
    number, cookie, _ = take_handle(reader, share), reader.uhyper(), reader.uhyper()
    reader.uint()  # what of the answer may be names: less than all of it
    most = reader.uint()

    def entry(node: Node, name: str, place: int) -> bytes:
        known = uhyper(node.number) + opaque(name.encode()) + uhyper(place)
        return known + attributes_after(share, node.number) + boolean(True) + handle_of(share, node.number)

    return _listing(share, number, cookie, most, entry_of=entry)


def fsstat(share: Share, reader: Reader) -> Parts:
    number = take_handle(reader, share)
    whole, free, files = share.room()
    sizes = b"".join(map(uhyper, (whole, free, free, files, files, files)))
    return [_OK, attributes_after(share, number), sizes, uint(0)]


def fsinfo(share: Share, reader: Reader) -> Parts:
    number = take_handle(reader, share)
    transfers = (MOST_IO_BYTES, MOST_IO_BYTES, _BLOCK) * 2 + (_PREFERRED_LISTING_BYTES,)
    limits = uhyper(_MOST_FILE_BYTES) + b"".join(map(uint, _NANOSECOND))
    found = boolean(True) + attributes(share, share.facts(number))
    return [_OK, found, *map(uint, transfers), limits, uint(_HOMOGENEOUS | _CAN_SET_TIME)]


def pathconf(share: Share, reader: Reader) -> Parts:
    """Names are cut nowhere, cased, and nobody is kept from giving files away."""
    number = take_handle(reader, share)
    answers = b"".join(map(boolean, (True, False, False, True)))
    return [_OK, attributes_after(share, number), uint(1), uint(MOST_NAME_BYTES), answers]


def _listing(share: Share, number: int, cookie: int, most: int, entry_of: Entry) -> Parts:
    """As many entries after ``cookie`` as fit in ``most`` bytes, one at least."""
    head = [_OK, attributes_after(share, number), uhyper(0)]
    left = min(most, MOST_LISTING_BYTES) - sum(map(len, head)) - 8
    entries: Parts = []
    for node, name, place in _places(share, number):
        if place <= cookie:
            continue
        entry = boolean(True) + entry_of(node, name, place)
        if len(entry) > left:
            if not entries:
                raise Refusal(Status.TOOSMALL)
            return [*head, *entries, boolean(False), boolean(False)]
        left -= len(entry)
        entries.append(entry)
    return [*head, *entries, boolean(False), boolean(True)]


def _places(share: Share, number: int) -> list[tuple[Node, str, int]]:
    """(node, what it is called here, place) of all in a folder, ascending by place."""
    children = share.children(number)
    folder = share.facts(number).node
    above = share.facts(folder.parent).node
    return [(folder, ".", _HERE), (above, "..", _ABOVE), *((node, node.name, node.number) for node in children)]
