"""The process of one session: adopts it, has it run as its kind wants, and writes down how it ended."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from holdfast_agent.errors import ErrorRecord, HoldfastError
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import SessionResult
from holdfast_manager.settings import ManagerSettings

from .agents import LeaseKeeper
from .kinds import run_kind
from .recorder import Recorder
from .workshop import Workshop

log = logging.getLogger(__name__)

_ALIVE_TTLS = 5
"""So many lease times without a sign of life make a session dead for other hosts: its movers have long ended then."""
_TO_TELL_S = 600.0
_TELL_AGAIN_S = 1.0


class SessionProcess:
    """One session from its row in the catalogue to its end. Used once, by ``python -m holdfast_manager.sessions``."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, session: int) -> None:
        self._settings = settings
        self._catalog = catalog
        self._session = session
        self._recorder = Recorder(catalog, session)
        self._signal = ""

    def run(self) -> SessionResult:
        """Adopt the session, run it, record its end. Typed errors end the session, they are not raised."""
        entry = self._catalog.sessions.adopt(self._session)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        began = time.monotonic()
        result, error = SessionResult.FAILED, None
        timing = self._settings.timing

        def stay_alive() -> None:
            self._catalog.sessions.stay_alive(self._session, _ALIVE_TTLS * timing.lease_ttl)

        try:
            with ExitStack() as cleanup, LeaseKeeper(timing.heartbeat, (stay_alive,)):
                shop = Workshop(self._settings, self._catalog, entry, self._recorder, self._stop_reason, cleanup)
                result = run_kind(shop)
            error = self._recorder.first_error if result not in (SessionResult.SUCCESS, SessionResult.WARNING) else None
        except HoldfastError as failure:
            error = failure.to_record()
            self._recorder.note(str(failure), "error")
        finally:
            self._end(result, error, time.monotonic() - began)
        return result

    def _end(self, result: SessionResult, error: ErrorRecord | None, elapsed_s: float) -> None:
        self._recorder.ended(result, elapsed_s)
        _insist(self._recorder.flush)
        _insist(lambda: self._catalog.sessions.end(self._session, result, error))

    def _stop_reason(self) -> str:
        if self._signal:
            return self._signal
        return "it was asked to stop" if self._catalog.sessions.stop_requested(self._session) else ""

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = f"signal {signal.Signals(number).name}"


def _insist(write: Callable[[], object]) -> None:
    """The last words of a session, which did all of its work: a catalogue that is away for minutes still gets them."""
    give_up = time.monotonic() + _TO_TELL_S
    while True:
        try:
            write()
            return
        except HoldfastError as error:
            if not error.retryable or time.monotonic() >= give_up:
                raise
            log.warning("how the session ended could not be written down yet: %s", error)
            time.sleep(_TELL_AGAIN_S)


def run_session(settings: ManagerSettings, session: int) -> SessionResult:
    """Open the catalogue and run one session in this process."""
    with Catalog.open(settings) as catalog:
        return SessionProcess(settings, catalog, session).run()
