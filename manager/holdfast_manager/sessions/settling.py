"""The end of an instant recovery: its VM gets disks of its own while it runs, or is removed; then the export ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import Locked, NotFound, UsageError
from holdfast_agent.model.stats import TransferCounters
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import SessionState
from holdfast_manager.sessions.kept_exports import discard

from .events import TaskKey
from .hypervisor_side import Destination
from .instant_actions import running_instantly, vm_named
from .recorder import Recorder
from .requests import InstantRequest, SettleRequest

_END_S = 60.0
_LOOK_S = 0.2


class Settling:
    """Used once, by a session of its own; whatever it cannot do stays as it was, and is tried by another one."""

    def __init__(self, catalog: Catalog, recorder: Recorder, keys: KeyPair, stopped: Callable[[], bool]) -> None:
        self._catalog = catalog
        self._recorder = recorder
        self._keys = keys
        self._stopped = stopped

    def run(self, request: SettleRequest, wanted: InstantRequest, destination: Destination) -> None:
        """Raises what the driver raises, ``Cancelled`` too, and :class:`Locked` for an export that does not end."""
        driver = running_instantly(destination.driver, wanted.server)
        vm = vm_named(destination.driver, wanted.name)
        if request.migrate:
            if vm is None:
                raise NotFound(kind="VM", name=wanted.name, advice=f"`holdfast server show {wanted.server}` lists them")
            if self._catalog.sessions.get(request.instant).state is SessionState.ENDED:
                raise UsageError(reason=f"its disks are not served; `holdfast instant resume {request.instant}` first")
            driver.migrate_instant(vm, destination.journal, self._progress(wanted))
            self._recorder.note(f"the VM {wanted.name} runs from disks of its own on {wanted.server}")
        elif vm is not None:
            driver.stop_instant(vm, destination.journal)
            self._recorder.note(f"the VM {wanted.name} is removed from {wanted.server}")
        self._end_export(request.instant)
        if not request.keep:
            discard(self._catalog, request.instant, self._keys)
            self._recorder.note("what it had written to the export is discarded")

    def _progress(self, wanted: InstantRequest) -> Callable[[int, int], bool]:
        key = TaskKey(wanted.sid, wanted.export)
        self._recorder.add_task(key, wanted.name, "all disks", 0)

        def told(done: int, whole: int) -> bool:
            counters = TransferCounters(size_bytes=whole, processed_bytes=done, read_bytes=done, sent_bytes=done)
            self._recorder.progress(key, counters)
            self._recorder.flush()
            return self._stopped()

        return told

    def _end_export(self, number: int) -> None:
        """Nobody needs it any more."""
        deadline = time.monotonic() + _END_S
        sessions = self._catalog.sessions
        while sessions.get(number).state is not SessionState.ENDED:
            sessions.request_stop(number)
            sessions.reap_dead()
            if time.monotonic() > deadline:
                raise Locked(what="the export", holder=f"session {number}, which does not end")
            time.sleep(_LOOK_S)
