"""One Data Mover process as its agent sees it: start, orders, reports, stop, and the end in every case."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from holdfast_agent.errors import ErrorRecord, HoldfastError, MalformedMessage, MoverDied, UsageError
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.starting import module_command
from holdfast_agent.wire import movers as pipe
from holdfast_agent.wire.files import SendFile
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import (
    BenchmarkSpec,
    BootSpec,
    CheckerSpec,
    ExporterSpec,
    FilesSpec,
    MoverSpec,
    Order,
    PairSpec,
    ReaderSpec,
    SourceSpec,
    TargetSpec,
    WriterSpec,
)

from .frame_pipe import FrameReader, FrameWriter
from .mover_birth import Birth, Process

EXPORTER_COMMAND: Final = module_command("holdfast_agent.export")
BOOT_COMMAND: Final = module_command("holdfast_agent.boot")
FILES_COMMAND: Final = module_command("holdfast_agent.files")
PROGRAMS: Final[Mapping[type[MoverSpec], Sequence[str]]] = {
    ExporterSpec: EXPORTER_COMMAND,
    BootSpec: BOOT_COMMAND,
    FilesSpec: FILES_COMMAND,
}
"""What is no Data Mover, but lives as one: these programs cannot be prepared before it is known which is wanted."""

TERMINATE_AFTER_S: Final = 5.0
KILL_AFTER_S: Final = 10.0
"""A mover told to stop cleans up within milliseconds; one that hangs is sent SIGTERM, then its group is killed."""

_REPORT_LIMIT_BYTES = 4 << 20  # the largest is a result with its pack list: 16,000 packs a TiB, 60 bytes each

_reports = msgspec.msgpack.Decoder(
    pipe.Listening | pipe.Connected | pipe.Progressed | pipe.Finished | pipe.Failed,
)
_encoder = msgspec.msgpack.Encoder()
_log = logging.getLogger(__name__)

_ROLE_NAMES = {
    SourceSpec: "source",
    TargetSpec: "target",
    ReaderSpec: "reader",
    WriterSpec: "writer",
    CheckerSpec: "checker",
    BenchmarkSpec: "benchmark",
    PairSpec: "pair",
    ExporterSpec: "exporter",
    BootSpec: "boot",
    FilesSpec: "files",
}


_NEVER_LISTENS = frozenset({"source", "writer", "checker", "pair", "boot", "files"})


class Watcher(Protocol):
    """What a mover needs of the loop's poller."""

    def watch(self, fd: int, *, readable: bool = True, writable: bool = False) -> None: ...

    def unwatch(self, fd: int) -> None: ...


class MoverProcess:
    """Used by the loop's thread only. ``on_change`` is called after each change of :attr:`state`.

    The process leads a group of its own, so that its helpers (qemu-nbd) end with it. Whatever happens, :attr:`state`
    ends at phase "done" or "failed", and the callbacks of :meth:`when_gone` run once the process is reaped.
    """

    def __init__(
        self,
        name: str,
        task_id: str,
        watcher: Watcher,
        on_change: Callable[[MoverState], None],
        birth: Birth,
        session_fd: int | None = None,
    ) -> None:
        """Start the process; :class:`OSError` if that fails. It waits for :meth:`set_up`.

        ``session_fd``: the lock of the write session that a target inherits.
        """
        self.name = name
        self.role = "new"
        self._listens = True
        self.state = MoverState(mover=name, task_id=task_id, phase="starting")
        self.endpoints: tuple[str, ...] = ()
        self._watcher = watcher
        self._on_change = on_change
        self._when_settled: list[Callable[[], None]] = []
        self._when_gone: list[Callable[[], None]] = []
        self._deadlines: list[tuple[float, signal.Signals]] = []
        self._ordered = False
        self._broken: HoldfastError | None = None
        self._process, self._stdin, self._stdout = _born(birth, session_fd)
        self._exit_fd = os.pidfd_open(self._process.pid)
        self._writer = FrameWriter(self._stdin)
        self._reader = FrameReader(self._stdout, f"mover {name}", _REPORT_LIMIT_BYTES)
        self._fds = {self._stdin, self._stdout, self._exit_fd}
        watcher.watch(self._stdout)
        watcher.watch(self._exit_fd)

    def set_up(self, setup: pipe.MoverSetup) -> None:
        """Tell the process what it is, once. The specification goes over the pipe, not into argv."""
        spec = setup.spec
        self.role = _ROLE_NAMES[type(spec)]
        sends = isinstance(spec, FilesSpec) and isinstance(spec.wish, SendFile)
        self._listens = sends or self.role not in _NEVER_LISTENS
        self._put(setup)

    @property
    def waits(self) -> bool:
        """It runs, and nobody has told it yet what it is."""
        return self.role == "new" and not self.gone

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fds(self) -> frozenset[int]:
        """Descriptors whose readiness is to be told to :meth:`ready`; empty once the mover is gone."""
        return frozenset(self._fds)

    @property
    def gone(self) -> bool:
        """The process has ended and is reaped."""
        return not self._fds

    @property
    def settled(self) -> bool:
        """Known to listen (a mover that never does: to run), or ended."""
        return not self._listens or self.state.phase != "starting"

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call once :attr:`settled`, at once if it is already."""
        self._call_or_keep(self.settled, self._when_settled, callback)

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call once :attr:`gone`, at once if it is already."""
        self._call_or_keep(self.gone, self._when_gone, callback)

    def begin(self, order: Order) -> None:
        """Send the order. Raises :class:`UsageError` for a second one; an ended mover has told its result already."""
        self._check_set_up()
        if self._ordered:
            raise UsageError(reason=f"mover {self.name} has its order already")
        self._ordered = True
        if self.state.phase not in ("done", "failed"):
            self._put(pipe.Begin(order=order))

    def change_rules(self, rules: TransferRules) -> None:
        """Send new rules; a mover that has ended needs none. Raises :class:`UsageError` before :meth:`set_up`."""
        self._check_set_up()
        self._put(pipe.NewRules(rules=rules))

    def stop(self, reason: str) -> None:
        """Ask the mover to end; :meth:`tick` insists if it does not. Idempotent."""
        if not self.gone and not self._deadlines:
            self._put(pipe.Stop(reason=reason))
            self._expect_end()

    def tick(self, now: float) -> None:
        """Send the signals that are due; called about once a second."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, which = self._deadlines.pop(0)
            _log.warning("mover %s (pid %d) does not end: %s", self.name, self.pid, which.name)
            self._signal_group(which)

    def ready(self, fd: int) -> None:
        """One of :attr:`fds` is readable or writable."""
        if self.gone:
            return
        if fd == self._stdin:
            self._flush()
        else:
            self._read_reports()
        if fd == self._exit_fd:
            self._reap()

    def _check_set_up(self) -> None:
        if self.waits:
            raise UsageError(reason=f"mover {self.name} was prepared and not started")

    def _put(self, frame: pipe.ToMover) -> None:
        if not self.gone:
            self._writer.put(_encoder.encode(frame))
            self._flush()

    def _flush(self) -> None:
        self._writer.flush()
        if self._writer.waiting:
            self._watcher.watch(self._stdin, readable=False, writable=True)
        else:
            self._watcher.watch(self._stdin, readable=False)

    def _read_reports(self) -> None:
        if self._broken is not None:
            return
        try:
            for frame in self._reader.frames():
                self._take(_reports.decode(frame))
            if self._reader.ended:
                self._watcher.watch(self._stdout, readable=False)
        except (*NOT_DECODED, HoldfastError) as error:
            self._broken = (
                error
                if isinstance(error, HoldfastError)
                else MalformedMessage(peer=f"mover {self.name}", reason=str(error))
            )
            self._watcher.watch(self._stdout, readable=False)
            self._signal_group(signal.SIGKILL)

    def _take(self, report: pipe.FromMover) -> None:
        match report:
            case pipe.Listening(endpoints=endpoints):
                self.endpoints = endpoints
                self._change("listening")
            case pipe.Connected(route=route, notes=notes):
                self._change("connected", route=route, notes=notes)
            case pipe.Progressed(counters=counters):
                self._change("transferring", counters=counters)
            case pipe.Finished(result=result, counters=counters):
                self._change("done", result=result, counters=counters)
                self._expect_end()
            case pipe.Failed(error=error, counters=counters):
                self._change("failed", error=error, counters=counters)
                self._expect_end()

    def _change(self, phase: str, **changes: object) -> None:
        if self.state.phase in ("done", "failed"):
            return  # the first end counts
        self.state = msgspec.structs.replace(self.state, phase=phase, **changes)
        self._on_change(self.state)
        if self.settled:
            self._call_all(self._when_settled)

    def _expect_end(self) -> None:
        if not self._deadlines:
            now = time.monotonic()
            self._deadlines = [(now + TERMINATE_AFTER_S, signal.SIGTERM), (now + KILL_AFTER_S, signal.SIGKILL)]

    def _signal_group(self, which: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, which)
        except ProcessLookupError:
            return  # the group is empty: all have ended

    def _reap(self) -> None:
        # First the group, then the wait: the leader as a zombie keeps its number from being given to anyone else.
        self._signal_group(signal.SIGKILL)
        status = self._process.wait()
        for fd in (self._stdout, self._exit_fd, self._stdin):
            self._watcher.unwatch(fd)
            os.close(fd)
        self._fds.clear()
        self._deadlines.clear()
        if self.state.phase not in ("done", "failed"):
            self._change("failed", error=self._death(status))
        self._call_all(self._when_gone)

    def _death(self, status: int) -> ErrorRecord:
        if self._broken is not None:
            return self._broken.to_record()
        reason = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        return MoverDied(role=self.role, task=self.state.task_id, reason=reason).to_record()

    @staticmethod
    def _call_or_keep(now: bool, keep: list[Callable[[], None]], callback: Callable[[], None]) -> None:
        if now:
            callback()
        else:
            keep.append(callback)

    @staticmethod
    def _call_all(callbacks: list[Callable[[], None]]) -> None:
        waiting, callbacks[:] = list(callbacks), []
        for callback in waiting:
            callback()


def _born(birth: Birth, session_fd: int | None) -> tuple[Process, int, int]:
    """The process, and our ends of its pipes: for orders, for reports. Raises :class:`OSError`."""
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    try:
        return birth(theirs_in, theirs_out, session_fd), ours_in, ours_out
    except BaseException:
        os.close(ours_in)
        os.close(ours_out)
        raise
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
