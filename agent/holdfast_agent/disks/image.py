"""``image:``: images in QEMU's formats, read and rewritten through a ``qemu-nbd`` of our own."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_agent.errors import DiskError, DiskUnwritable
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .disk import DiskExtent, ReadableDisk
from .image_server import ImageServer
from .nbd.dial import Dialler
from .nbd.disk import NbdDisk
from .nbd.export import NbdExport
from .nbd.target import NbdTarget


class ImageDisk:
    """An image that is read. Open it in the main thread: see :class:`ImageServer`."""

    def __init__(self, url: DiskUrl, host: MoverHost) -> None:
        self.url = str(url)
        self._server = ImageServer(url, host)

        def connect(dial: Dialler) -> NbdDisk:
            # resume: a server that died does not come back
            export = NbdExport(dial, self.url, host.workers, resume=False)
            return NbdDisk(export, self.url, url.option("bitmap"))

        self._disk = self._server.open(connect, bitmap=self._server.bitmap)
        self.size_bytes = self._disk.size_bytes

    def extents(self) -> Iterator[DiskExtent]:
        return self._disk.extents()

    def changed_extents(self) -> Iterator[DiskExtent]:
        return self._disk.changed_extents()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_into(offset, buffer)

    def close(self) -> None:
        self._disk.close()
        self._server.stop()


class ImageTarget:
    """An image that is rewritten in place. QEMU's locks keep a VM from starting on it meanwhile, and us from an image
    that a VM has open. Open it in the main thread: see :class:`ImageServer`."""

    now: ReadableDisk

    def __init__(self, url: DiskUrl, host: MoverHost, size_bytes: int) -> None:
        self.url = str(url)
        self._server = ImageServer(url, host, writable=True)
        bitmap = url.option("bitmap")
        self._target = self._server.open(
            lambda dial: NbdTarget(dial, self.url, host, size_bytes, bitmap), bitmap=self._server.bitmap
        )
        self.now = self._target.now
        self._ended = False

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._target.write(offset, data)

    def write_zeros(self, offset: int, length: int) -> None:
        self._target.write_zeros(offset, length)

    def finish(self) -> None:
        try:
            self._target.finish()
        except DiskError:
            self.abort()
            raise
        self._ended = True
        complaint = self._server.finish()
        if complaint:
            reason = f"qemu-nbd has not closed it well: {complaint}"
            raise DiskUnwritable(url=self.url, offset_bytes=0, length_bytes=0, reason=reason)

    def abort(self) -> None:
        """In order, so that what was written and the image's dirty bitmaps agree."""
        if not self._ended:
            self._ended = True
            self._target.abort()
            self._server.finish()
