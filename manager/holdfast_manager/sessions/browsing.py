"""Looks into a restore point's file systems that no session is worth: an export that lives as long as somebody asks."""

from __future__ import annotations

import queue
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import ErrorRecord, MoverDied, UsageError, from_record
from holdfast_agent.model.points import Point
from holdfast_agent.wire.files import FileEntry, FilesFound, FilesWish, SendFile
from holdfast_agent.wire.messages import MoverChanged, MoverStarted, MoverState, Push, StartMover
from holdfast_agent.wire.specs import AnySpec, ExporterSpec, FilesSpec
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.repository_keys import repository_keys
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.settings import TimingSettings

from .agents import AgentPool, LeaseKeeper
from .exporters import export_names, exported, start_exporter
from .file_stream import received
from .point_reader import wanted_disks
from .routing import Routing

_SENDS_SINCE = 3  # the minor version of the protocol
_LOOK_S = 0.5  # between two looks of who waits whether it was interrupted


class Browser:
    """One restore point on one proxy. One thread."""

    def __init__(self, pool: AgentPool, events: queue.SimpleQueue[MoverState | ErrorRecord], proxy: str) -> None:
        self._pool = pool
        self._events = events
        self._proxy = proxy
        self._export = ""
        self._disks: tuple[str, ...] = ()

    def open(self, catalog: Catalog, row: PointEntryRow, point: Point, disks: tuple[str, ...]) -> None:
        """Serve disks of the point. Raises what starting movers raises."""
        repository = catalog.repositories.get(row.repository)
        chosen = wanted_disks(point, disks)
        self._export = f"look-{secrets.token_hex(4)}"
        self._disks = tuple(export_names(chosen))
        spec = ExporterSpec(
            task_id=self._export,
            secret=secrets.token_bytes(32),
            export=self._export,
            keys=repository_keys(catalog, repository).opening_keys(),
            disks=exported(chosen),
        )
        start_exporter(self._start, Routing(catalog, self._pool), repository, self._proxy, spec)

    def ask(self, wish: FilesWish, volume: str = "") -> FilesFound:
        """Raises what the look ends with, and what the channel raises."""
        mover = f"{secrets.token_hex(6)}-files"
        spec = FilesSpec(
            task_id=self._export, secret=b"", export=self._export, disks=self._disks, wish=wish, volume=volume
        )
        self._start(self._proxy, mover, spec)
        while True:
            try:
                event = self._events.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if isinstance(event, ErrorRecord):
                raise from_record(event)
            if event.error is not None:
                raise from_record(event.error)
            if event.mover == mover and event.result is not None and event.result.files is not None:
                return event.result.files
            if event.phase == "done":
                raise MoverDied(role="exporter", task=self._export, reason="it ended by itself")

    def content(self, path: bytes, volume: str = "") -> Iterator[FileEntry | bytes]:
        """One file and its content, as :func:`~.file_stream.received` gives them; until it ends, nothing else is asked.

        Raises as ``ask``, and :class:`UsageError` for an agent that is too old.
        """
        if not self._pool.understands(self._proxy, _SENDS_SINCE):
            raise UsageError(
                reason=f"the agent {self._proxy!r} is too old to send files; restore them to a folder of it"
            )
        secret = secrets.token_bytes(32)
        wish = SendFile(path=path)
        spec = FilesSpec(
            task_id=self._export, secret=secret, export=self._export, disks=self._disks, wish=wish, volume=volume
        )
        endpoints = self._start(self._proxy, f"{secrets.token_hex(6)}-files", spec)
        return received(endpoints, secret, self._events)

    def _start(self, agent: str, mover: str, spec: AnySpec) -> tuple[str, ...]:
        request = StartMover(lease=self._pool.lease, mover=mover, spec=spec)
        return self._pool.ask(agent, request, MoverStarted).endpoints


@contextmanager
def browsing(
    catalog: Catalog,
    keys: KeyPair,
    timing: TimingSettings,
    row: PointEntryRow,
    point: Point,
    proxy: str,
    disks: tuple[str, ...] = (),
) -> Iterator[Browser]:
    """``point``: the one behind ``row``, authenticated. Whatever ends this, the agents stop with its lease."""
    events: queue.SimpleQueue[MoverState | ErrorRecord] = queue.SimpleQueue()

    def heard(_agent: str, push: Push | AgentLost) -> None:
        if isinstance(push, AgentLost):
            events.put(push.error.to_record())
        elif isinstance(push, MoverChanged):
            events.put(push.state)

    with ExitStack() as stack:
        pool = AgentPool(catalog, keys, f"look-{secrets.token_hex(6)}", timing.lease_ttl, heard)
        stack.callback(pool.close)
        stack.enter_context(LeaseKeeper(timing.heartbeat, (pool.renew,)))
        browser = Browser(pool, events, proxy)
        browser.open(catalog, row, point, disks)
        yield browser
