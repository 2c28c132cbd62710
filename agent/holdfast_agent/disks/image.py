"""``image:``: images in QEMU's formats, read and rewritten through a ``qemu-nbd`` of our own."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .disk import DiskExtent
from .image_server import ImageServer
from .nbd.dial import Dialler
from .nbd.disk import NbdDisk
from .nbd.export import NbdExport
from .nbd.target import NbdTarget
from .served_target import ServedTarget


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


class ImageTarget(ServedTarget):
    """An image that is rewritten in place. QEMU's locks keep a VM from starting on it meanwhile, and us from an image
    that a VM has open. Open it in the main thread: see :class:`ImageServer`."""

    def __init__(self, url: DiskUrl, host: MoverHost, size_bytes: int) -> None:
        server, bitmap = ImageServer(url, host, writable=True), url.option("bitmap")
        target = server.open(lambda dial: NbdTarget(dial, str(url), host, size_bytes, bitmap), bitmap=server.bitmap)
        super().__init__(server, target)
