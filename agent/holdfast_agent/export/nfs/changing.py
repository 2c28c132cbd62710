"""Procedures of NFS 3 that change something (RFC 1813, section 3.3). Names and attributes are durable when they are
answered; what is written is as durable as the client asked, and then after its COMMIT."""

from __future__ import annotations

from .names import new_name_of
from .protocol import MOST_IO_BYTES, MOST_NAME_BYTES, Create, Kind, Refusal, Stable, Status
from .rpc import Parts
from .share import Share, Wish
from .values import attributes_after, handle_of, take_handle, take_time, take_wish, wcc
from .xdr import Reader, XdrError, boolean, uint

VERIFIER_BYTES = 8
_OK = uint(Status.OK)
_DEFAULT_FILE_MODE, _DEFAULT_FOLDER_MODE = 0o600, 0o700


def setattr3(share: Share, reader: Reader) -> Parts:
    number, wish = take_handle(reader, share), take_wish(reader)
    guard = take_time(reader) if reader.boolean() else None
    if guard is not None and guard != share.facts(number).ctime_ns:
        raise Refusal(Status.NOT_SYNC)
    share.change(number, wish)
    return [_OK, wcc(share, number)]


def write(share: Share, reader: Reader, verifier: bytes) -> Parts:
    number, offset, count, stable = take_handle(reader, share), reader.uhyper(), reader.uint(), reader.uint()
    data = reader.opaque(MOST_IO_BYTES)
    if stable > Stable.FILE_SYNC:
        raise XdrError(f"{stable} is no way to write")
    if count > len(data):
        raise Refusal(Status.INVAL)
    durable = stable != Stable.UNSTABLE
    share.write(number, offset, data[:count], durable=durable)
    committed = Stable.FILE_SYNC if durable else Stable.UNSTABLE
    return [_OK, wcc(share, number), uint(count), uint(committed), verifier]


def commit(share: Share, reader: Reader, verifier: bytes) -> Parts:
    """Of the whole file, whatever part was asked for."""
    number = take_handle(reader, share)
    share.sync(number)
    return [_OK, wcc(share, number), verifier]


def create(share: Share, reader: Reader) -> Parts:
    parent, name, how = take_handle(reader, share), new_name_of(reader.opaque(MOST_NAME_BYTES * 4)), _how(reader)
    wish, verifier = Wish(), b""
    if how is Create.EXCLUSIVE:
        verifier = reader.fixed(VERIFIER_BYTES)
    else:
        wish = take_wish(reader)
    mode = _DEFAULT_FILE_MODE if wish.mode is None else wish.mode
    number = share.create(parent, name, mode, how, verifier.hex()).node.number
    share.change(number, wish)
    return _made(share, parent, number)


def mkdir(share: Share, reader: Reader) -> Parts:
    parent, name, wish = take_handle(reader, share), new_name_of(reader.opaque(MOST_NAME_BYTES * 4)), take_wish(reader)
    mode = _DEFAULT_FOLDER_MODE if wish.mode is None else wish.mode
    return _made(share, parent, share.make_folder(parent, name, mode).node.number)


def remove(share: Share, reader: Reader) -> Parts:
    return _remove(share, reader, Kind.FILE)


def rmdir(share: Share, reader: Reader) -> Parts:
    return _remove(share, reader, Kind.FOLDER)


def rename(share: Share, reader: Reader) -> Parts:
    parent, name = take_handle(reader, share), new_name_of(reader.opaque(MOST_NAME_BYTES * 4))
    to_parent, to_name = take_handle(reader, share), new_name_of(reader.opaque(MOST_NAME_BYTES * 4))
    share.rename(parent, name, to_parent, to_name)
    return [_OK, wcc(share, parent), wcc(share, to_parent)]


def _remove(share: Share, reader: Reader, kind: Kind) -> Parts:
    parent, name = take_handle(reader, share), new_name_of(reader.opaque(MOST_NAME_BYTES * 4))
    share.remove(parent, name, kind)
    return [_OK, wcc(share, parent)]


def _made(share: Share, parent: int, number: int) -> Parts:
    handle = boolean(True) + handle_of(share, number)
    return [_OK, handle, attributes_after(share, number), wcc(share, parent)]


def _how(reader: Reader) -> Create:
    try:
        return Create(reader.uint())
    except ValueError as error:
        raise XdrError("no way to create") from error
