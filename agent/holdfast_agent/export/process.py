"""The life of an exporter: open the point, listen, serve until the agent says stop or is gone, leave nothing behind."""

from __future__ import annotations

import contextlib
import logging
import select
import time
from pathlib import Path

from holdfast_agent.errors import Cancelled, UsageError
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.mover.control import Control
from holdfast_agent.mover.life import live
from holdfast_agent.wire.movers import ExportHost, Finished, Listening, MoverHost
from holdfast_agent.wire.specs import ExporterSpec, MoverResult

from .cache import BlockCache
from .folder import ExportFolder, overlay_folder
from .image import Image, PointImage
from .listen import Listening as Listener
from .overlay import OverlayImage
from .records import OpenRecords, open_records
from .server import Server

_LOOK_S = 0.5
_SHOW_LIFE_S = 600.0
_MOST_DISKS = 256
_MOST_NAME_BYTES = 512
_log = logging.getLogger("holdfast.export")


def main() -> None:
    """Entry point of ``python -m holdfast_agent.export``."""
    exporter = _Exporter()
    live("exporter", exporter.run, lambda: exporter.counters)


class _Exporter:
    def __init__(self) -> None:
        self.counters = TransferCounters()
        self._hangs = False

    def run(self, control: Control) -> Finished:
        """Everything between start and the last report. To be told to stop is how an export ends well."""
        self._control = control
        try:
            with contextlib.ExitStack() as stack:
                setup = control.setup()
                if not isinstance(setup.spec, ExporterSpec) or setup.host.exports is None:
                    raise UsageError(reason="an exporter was given another task")
                self._serve(setup.spec, setup.host, setup.host.exports, stack)
        except Cancelled as stopped:
            _log.info("ended: %s", stopped.text)
        return Finished(result=MoverResult(), counters=self.counters)

    def _close_server(self, server: Server) -> None:
        self._hangs = not server.close()
        if self._hangs:
            _log.warning("a thread is still at work; the process ends without it")

    def _close_overlays(self, overlays: list[OverlayImage]) -> None:
        for overlay in overlays:
            overlay.close(still_used=self._hangs)

    def _serve(self, spec: ExporterSpec, host: MoverHost, exports: ExportHost, stack: contextlib.ExitStack) -> None:
        _check(spec)
        directory = Path(exports.directory)
        folder = ExportFolder.take(directory, spec.export)
        stack.callback(folder.close, remove=not spec.writable)
        if spec.keep:
            folder.keep()
        records = open_records(spec, host)
        stack.callback(records.close)
        cache = BlockCache(exports.cache_bytes, records.threads)
        stack.callback(cache.close)
        images: dict[str, Image] = {}
        overlays: list[OverlayImage] = []
        stack.callback(self._close_overlays, overlays)
        for disk in spec.disks:
            point = PointImage(disk, records, spec.keys, cache, records.near)
            point.open()
            images[disk.name] = point
            if spec.writable:
                overlay = OverlayImage(point, disk, overlay_folder(folder.path, disk.name))
                overlays.append(overlay)
                images[disk.name] = overlay
        listener = Listener(spec, host, folder.path)
        stack.callback(listener.close)
        server = Server(listener.socket, images, spec.description, listener.tls)
        stack.callback(self._close_server, server)
        self._control.report(Listening(endpoints=listener.uris))
        size = sum(image.size_bytes for image in images.values())
        show_life_at = 0.0
        while True:
            select.select(self._control.fds, [], [], _LOOK_S)
            self._control.take()
            if time.monotonic() >= show_life_at:
                show_life_at = time.monotonic() + _SHOW_LIFE_S
                folder.show_life()
            _check_records(records)
            counters = TransferCounters(size_bytes=size, sent_bytes=server.sent_bytes)
            if counters != self.counters and self._control.progress_due:
                self.counters = counters
                self._control.progress(counters)


def _check(spec: ExporterSpec) -> None:
    names = {disk.name for disk in spec.disks}
    if not 0 < len(spec.disks) <= _MOST_DISKS or len(names) != len(spec.disks):
        raise UsageError(reason=f"an export is of 1 to {_MOST_DISKS} disks with different names")
    if not all(name.isprintable() and 0 < len(name.encode()) <= _MOST_NAME_BYTES for name in names):
        raise UsageError(reason=f"a disk's name has up to {_MOST_NAME_BYTES} printable bytes")


def _check_records(records: OpenRecords) -> None:
    """Raise why no record will come any more. Clients were not told: they connect again to the next exporter."""
    if records.lost is not None:
        raise records.lost
