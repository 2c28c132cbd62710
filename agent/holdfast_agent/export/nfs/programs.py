"""The programs that answer: NFS 3 and MOUNT 3 (RFC 1813), and the portmapper that tells their port (RFC 1833)."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial

from holdfast_agent.errors import ChannelError, HoldfastError

from . import changing, looking, protocol
from .names import ROOT
from .protocol import Procedure, Refusal, Status
from .rpc import Parts
from .share import Share
from .values import NO_ATTRIBUTES, NO_WCC, handle_of
from .xdr import Reader, boolean, opaque, uint

Deed = Callable[[Share, Reader], Parts]
_AUTH_NONE, _AUTH_SYS = 0, 1
_REFUSED = {
    errno.ENOSPC: Status.NOSPC, errno.EDQUOT: Status.NOSPC, errno.EFBIG: Status.FBIG, errno.ENOENT: Status.STALE,
}  # fmt: skip
_log = logging.getLogger("holdfast.export")


def nothing(reader: Reader) -> Parts:
    """The procedure 0 of every program."""
    reader.end()
    return []


class NfsProgram:
    """NFS 3. Its write verifier is another one after each start: what was not committed then is sent again."""

    number, version = protocol.NFS, protocol.NFS_VERSION
    _WAIT = (Procedure.READ, Procedure.WRITE, Procedure.COMMIT)

    def __init__(self, share: Share) -> None:
        verifier = os.urandom(changing.VERIFIER_BYTES)
        self._share = share
        # with each what follows the status of a refusal (the "resfail" arms of the results)
        self._deeds: Mapping[int, tuple[Deed, bytes]] = {
            Procedure.GETATTR: (looking.getattr3, b""),
            Procedure.SETATTR: (changing.setattr3, NO_WCC),
            Procedure.LOOKUP: (looking.lookup, NO_ATTRIBUTES),
            Procedure.ACCESS: (looking.access, NO_ATTRIBUTES),
            Procedure.READLINK: (_unsupported, NO_ATTRIBUTES),
            Procedure.READ: (looking.read, NO_ATTRIBUTES),
            Procedure.WRITE: (partial(changing.write, verifier=verifier), NO_WCC),
            Procedure.CREATE: (changing.create, NO_WCC),
            Procedure.MKDIR: (changing.mkdir, NO_WCC),
            Procedure.SYMLINK: (_unsupported, NO_WCC),
            Procedure.MKNOD: (_unsupported, NO_WCC),
            Procedure.REMOVE: (changing.remove, NO_WCC),
            Procedure.RMDIR: (changing.rmdir, NO_WCC),
            Procedure.RENAME: (changing.rename, NO_WCC * 2),
            Procedure.LINK: (_unsupported, NO_ATTRIBUTES + NO_WCC),
            Procedure.READDIR: (looking.readdir, NO_ATTRIBUTES),
            Procedure.READDIRPLUS: (looking.readdirplus, NO_ATTRIBUTES),
            Procedure.FSSTAT: (looking.fsstat, NO_ATTRIBUTES),
            Procedure.FSINFO: (looking.fsinfo, NO_ATTRIBUTES),
            Procedure.PATHCONF: (looking.pathconf, NO_ATTRIBUTES),
            Procedure.COMMIT: (partial(changing.commit, verifier=verifier), NO_WCC),
        }

    def procedure(self, number: int) -> Callable[[Reader], Parts] | None:
        if number == Procedure.NULL:
            return nothing
        if number not in self._deeds:
            return None
        deed, after = self._deeds[number]
        return partial(self._carry_out, deed, after)

    def waits(self, number: int) -> bool:
        return number in self._WAIT

    def _carry_out(self, deed: Deed, after: bytes, reader: Reader) -> Parts:
        try:
            return deed(self._share, reader)
        except Refusal as refusal:
            status = refusal.status
        except ChannelError:
            raise
        except HoldfastError as error:
            _log.warning("a client of %s is told of an error: %s", self._share.path, error)
            status = Status.IO
        except OSError as error:
            _log.warning("a client of %s is told of an error: %s", self._share.path, error)
            status = _REFUSED.get(error.errno or 0, Status.IO)
        return [uint(status), after]


def _unsupported(share: Share, reader: Reader) -> Parts:
    raise Refusal(Status.NOTSUPP)


class MountProgram:
    """MOUNT 3. Nobody is remembered: who has mounted is not asked for anything."""

    number, version = protocol.MOUNT, protocol.MOUNT_VERSION

    def __init__(self, share: Share) -> None:
        self._share = share
        self._procedures = {
            0: nothing, 1: self._mount, 2: self._none_mounted, 3: self._unmount, 4: nothing, 5: self._exports,
        }  # fmt: skip

    def procedure(self, number: int) -> Callable[[Reader], Parts] | None:
        return self._procedures.get(number)

    def waits(self, number: int) -> bool:
        return False

    def _mount(self, reader: Reader) -> Parts:
        wanted = bytes(reader.opaque(protocol.MOST_PATH_BYTES))
        if wanted.rstrip(b"/") != self._share.path.encode():
            return [uint(Status.NOENT)]
        flavors = uint(2) + uint(_AUTH_SYS) + uint(_AUTH_NONE)
        return [uint(Status.OK), handle_of(self._share, ROOT), flavors]

    def _unmount(self, reader: Reader) -> Parts:
        reader.opaque(protocol.MOST_PATH_BYTES)
        return []

    def _exports(self, reader: Reader) -> Parts:
        reader.end()
        return [boolean(True), opaque(self._share.path.encode()), boolean(False), boolean(False)]

    @staticmethod
    def _none_mounted(reader: Reader) -> Parts:
        reader.end()
        return [boolean(False)]


class Portmapper:
    """The portmapper 2, of the other programs of one server alone. ``ports``: by number and version."""

    number, version = protocol.PORTMAPPER, protocol.PORTMAPPER_VERSION

    def __init__(self, ports: Mapping[tuple[int, int], int]) -> None:
        self._ports = ports
        self._procedures = {0: nothing, 1: self._refuse, 2: self._refuse, 3: self._port, 4: self._dump}

    def procedure(self, number: int) -> Callable[[Reader], Parts] | None:
        return self._procedures.get(number)

    def waits(self, number: int) -> bool:
        return False

    @staticmethod
    def _refuse(reader: Reader) -> Parts:
        """Nobody registers anything here."""
        for _ in range(4):
            reader.uint()
        return [boolean(False)]

    def _port(self, reader: Reader) -> Parts:
        program, version, transport, _ = (reader.uint() for _ in range(4))
        known = transport == protocol.TCP
        return [uint(self._ports.get((program, version), 0) if known else 0)]

    def _dump(self, reader: Reader) -> Parts:
        reader.end()
        entries = [
            boolean(True) + b"".join(map(uint, (program, version, protocol.TCP, port)))
            for (program, version), port in self._ports.items()
        ]
        return [*entries, boolean(False)]
