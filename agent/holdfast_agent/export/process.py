"""The life of an exporter: open the point, listen, serve until the agent says stop or is gone, leave nothing behind."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import select
import time
from pathlib import Path
from urllib.parse import quote

from holdfast_agent.errors import Cancelled, UsageError
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.mover.control import Control
from holdfast_agent.mover.life import live
from holdfast_agent.wire.movers import ExportHost, Finished, Listening, MoverHost
from holdfast_agent.wire.specs import ExporterSpec, MoverResult

from .cache import BlockCache
from .folder import ExportFolder, overlay_folder
from .image import Image, PointImage
from .listen import NFS, in_uri
from .listen import Listening as Listener
from .nfs.listen import listen as listen_for_nfs
from .nfs.server import NfsServer
from .nfs.share import Share
from .overlay import OverlayImage
from .records import OpenRecords, open_records
from .server import Server

_LOOK_S = 0.5
_SHOW_LIFE_S = 600.0
_MOST_DISKS = 256
_MOST_CLIENTS = 256
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

    def _close_server(self, server: Server | NfsServer) -> None:
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
        overlays: list[OverlayImage] = []
        stack.callback(self._close_overlays, overlays)
        images = _open_images(spec, folder, records, cache, overlays)
        server: Server | NfsServer
        if spec.listen == NFS:
            server, uris = _serve_nfs(spec, exports, folder.path, overlays)
        else:
            listener = Listener(spec, host, folder.path)
            stack.callback(listener.close)
            server, uris = Server(listener.socket, images, spec.description, listener.tls), listener.uris
        stack.callback(self._close_server, server)
        self._control.report(Listening(endpoints=uris))
        self._follow(server, folder, records, sum(image.size_bytes for image in images.values()))

    def _follow(self, server: Server | NfsServer, folder: ExportFolder, records: OpenRecords, size_bytes: int) -> None:
        """Until the agent says stop, which ends it by ``Cancelled``. Clients are served by threads of the server."""
        show_life_at = 0.0
        while True:
            select.select(self._control.fds, [], [], _LOOK_S)
            self._control.take()
            if time.monotonic() >= show_life_at:
                show_life_at = time.monotonic() + _SHOW_LIFE_S
                folder.show_life()
            _check_records(records)
            counters = TransferCounters(size_bytes=size_bytes, sent_bytes=server.sent_bytes)
            if counters != self.counters and self._control.progress_due:
                self.counters = counters
                self._control.progress(counters)


def _open_images(
    spec: ExporterSpec, folder: ExportFolder, records: OpenRecords, cache: BlockCache, overlays: list[OverlayImage]
) -> dict[str, Image]:
    """The disks by name. ``overlays`` gets those that were opened, also where a later one fails."""
    images: dict[str, Image] = {}
    for disk in spec.disks:
        point = PointImage(disk, records, spec.keys, cache, records.near)
        point.open()
        images[disk.name] = point
        if spec.writable:
            overlay = OverlayImage(point, disk, overlay_folder(folder.path, disk.name))
            overlays.append(overlay)
            images[disk.name] = overlay
    return images


def _serve_nfs(
    spec: ExporterSpec, exports: ExportHost, folder: Path, disks: list[OverlayImage]
) -> tuple[NfsServer, tuple[str, ...]]:
    """The server, and where each disk's descriptor is."""
    share = Share(folder / "nfs", f"/holdfast/{spec.export}", disks, exports.nfs_scratch_bytes)
    listeners = listen_for_nfs(folder / "nfs", exports.nfs_addresses, exports.nfs_port)
    place = f"nfs://{in_uri(listeners.address)}{share.path}"
    return NfsServer(listeners, share, spec.clients), tuple(f"{place}/{quote(name)}" for name in share.files)


def _check(spec: ExporterSpec) -> None:
    if spec.listen == NFS and not (spec.writable and 0 < len(spec.clients) <= _MOST_CLIENTS):
        raise UsageError(reason=f"an export over NFS is writable, and for 1 to {_MOST_CLIENTS} addresses")
    for client in spec.clients:
        _check_address(client)
    names = {disk.name for disk in spec.disks}
    if not 0 < len(spec.disks) <= _MOST_DISKS or len(names) != len(spec.disks):
        raise UsageError(reason=f"an export is of 1 to {_MOST_DISKS} disks with different names")
    if not all(name.isprintable() and 0 < len(name.encode()) <= _MOST_NAME_BYTES for name in names):
        raise UsageError(reason=f"a disk's name has up to {_MOST_NAME_BYTES} printable bytes")


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(reason=f"{text!r} is no address in numbers") from error


def _check_records(records: OpenRecords) -> None:
    """Raise why no record will come any more. Clients were not told: they connect again to the next exporter."""
    if records.lost is not None:
        raise records.lost
