"""Raw image files and block devices, read in place."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from holdfast_agent.descriptors import read_at
from holdfast_agent.errors import DiskNotFound, DiskShrunk, DiskUnreadable
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .disk import DiskExtent
from .patience import Patience
from .places import check_kind, open_allowed
from .sparse import extents_of

_LOOK_AGAIN_S = 0.05


class RawDisk:
    """``file:`` and ``block:``. Reads with pread, so any number of threads read at once."""

    def __init__(self, url: DiskUrl, fd: int) -> None:
        """``fd``: open for reading; closed with the disk."""
        self.url = str(url)
        self._fd = fd
        self.size_bytes = os.lseek(fd, 0, os.SEEK_END)

    @classmethod
    def open(cls, url: DiskUrl, host: MoverHost) -> RawDisk:
        """See :func:`holdfast_agent.disks.open.open_disk`."""
        fd = appearing(url, host, os.O_RDONLY)
        try:
            check_kind(fd, str(url), host, device=url.scheme is DiskScheme.BLOCK)
            os.set_blocking(fd, True)
            return cls(url, fd)
        except BaseException:
            os.close(fd)
            raise

    def extents(self) -> Iterator[DiskExtent]:
        try:
            yield from extents_of(self._fd, 0, self.size_bytes)
        except OSError as error:
            raise DiskUnreadable(
                url=self.url, offset_bytes=0, length_bytes=0, reason=os.strerror(error.errno or 0)
            ) from error
        self._check_size()  # else what was cut off meanwhile would have passed for a hole

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            count = read_at(self._fd, offset, buffer)
        except OSError as error:
            raise DiskUnreadable(
                url=self.url, offset_bytes=offset, length_bytes=len(buffer), reason=os.strerror(error.errno or 0)
            ) from error
        if count < len(buffer):
            raise DiskShrunk(url=self.url, found_bytes=offset + count, expected_bytes=self.size_bytes)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_size(self) -> None:
        found = os.lseek(self._fd, 0, os.SEEK_END)
        if found < self.size_bytes:
            raise DiskShrunk(url=self.url, found_bytes=found, expected_bytes=self.size_bytes)


def appearing(url: DiskUrl, host: MoverHost, flags: int) -> int:
    """A descriptor of the disk, opened with ``flags``.

    A device that is only now being attached to this host may take its time to appear: as long as the URL says.
    """
    patience = Patience(float(url.option("wait", "0")))
    while True:
        try:
            return open_allowed(url.path, flags, str(url), host)
        except DiskNotFound:
            if patience.over:
                raise
            time.sleep(_LOOK_AGAIN_S)  # nothing tells of a link that udev makes
