"""The life of a look into file systems: connect to the export, start the confined reader, take what it tells."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import tempfile
from pathlib import Path

from holdfast_agent.disks.nbd.connection import Connection
from holdfast_agent.disks.nbd.dial import Dialler, connect_unix
from holdfast_agent.disks.nbd.negotiation import Wish
from holdfast_agent.errors import FilesUnreadable, UsageError, from_record
from holdfast_agent.export.folder import SOCKET_NAME, folder_of
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.mover.control import Control
from holdfast_agent.mover.life import live
from holdfast_agent.wire.files import FilesFound, MountFiles, SendFile
from holdfast_agent.wire.movers import Connected, Finished, MoverHost
from holdfast_agent.wire.specs import FilesSpec, MoverResult

from .answer import Answer
from .frames import Confined, Ended, Inlet, Outlet
from .mount import Mount
from .reader import read_files
from .sending import send_file

_MOST_DISKS = 256  # as many as an export has
_log = logging.getLogger("holdfast.files")


def main() -> None:
    """Entry point of ``python -m holdfast_agent.files``."""
    live("files", _look)


def _look(control: Control) -> Finished:
    setup = control.setup()
    spec, host = setup.spec, setup.host
    if not isinstance(spec, FilesSpec) or host.exports is None:
        raise UsageError(reason="a look into file systems was given another task")
    if not 0 < len(spec.disks) <= _MOST_DISKS:
        raise UsageError(reason=f"file systems are looked for on one to {_MOST_DISKS} disks")
    export = folder_of(Path(host.exports.directory), spec.export) / SOCKET_NAME
    with contextlib.ExitStack() as stack:
        empty = Path(tempfile.mkdtemp(prefix="files-", dir=host.runtime_dir))
        stack.callback(shutil.rmtree, empty, ignore_errors=True)
        child, pipe, questions = _start_reader(spec, host, export, empty)
        stack.callback(_end, child)
        if isinstance(spec.wish, MountFiles):
            return _show(control, host, spec.wish, Inlet(pipe), Outlet(questions))
        if isinstance(spec.wish, SendFile):
            return send_file(control, Inlet(pipe), spec.secret, host)
        answer = Answer(spec.wish, host)
        stack.callback(answer.close)
        control.report(Connected())
        _take(control, Inlet(pipe), answer)
        return Finished(result=MoverResult(files=answer.result()), counters=answer.counters)


def _show(control: Control, host: MoverHost, wish: MountFiles, inlet: Inlet, questions: Outlet) -> Finished:
    """Until it is unmounted. Raises ``Cancelled``, and as :class:`~.mount.Mount`."""
    first = inlet.take()
    if isinstance(first, Ended) and first.error is not None:
        raise from_record(first.error)
    with contextlib.closing(Mount(wish, host, control, questions, inlet)) as mount:
        doubts = mount.begin()
        control.report(Connected(notes=doubts))
        mount.serve()
    return Finished(result=MoverResult(files=FilesFound()), counters=TransferCounters())


def _take(control: Control, inlet: Inlet, answer: Answer) -> None:
    """Everything up to the last frame. Raises ``Cancelled``, what the reader failed with, and as :class:`Answer`."""
    poller = select.poll()
    for fd in (inlet.fd, *control.fds):
        poller.register(fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        control.take()
        if inlet.fd not in ready:
            continue
        frame = inlet.take()
        if frame is None:
            raise FilesUnreadable(reason="its reader ended in the midst of it")
        if isinstance(frame, Confined):
            _log.info("the reader of file systems has %r", frame.how)
            continue
        if isinstance(frame, Ended):
            if frame.error is not None:
                raise from_record(frame.error)
            answer.end(frame.more)
            return
        answer.take(frame)
        control.progress(answer.counters)


def _start_reader(spec: FilesSpec, host: MoverHost, export: Path, empty: Path) -> tuple[int, int, int]:
    """(process id, what it tells, what it is asked). Raises :class:`DiskError`."""
    sockets: list[socket.socket] = []
    disks = [_connect(export, name, host, sockets) for name in spec.disks]
    inlet, outlet = os.pipe()
    asked, questions = os.pipe()
    child = os.fork()  # no other thread lives in this process
    if child:
        os.close(outlet)
        os.close(asked)
        return child, inlet, questions
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _keep_only({outlet, asked, *(each.fileno() for each in sockets)})
        read_files(spec, disks, host.agent, str(empty), outlet, asked)
    finally:
        os._exit(1)


def _connect(export: Path, name: str, host: MoverHost, sockets: list[socket.socket]) -> Connection:
    def connect(timeout_s: float) -> socket.socket:
        sockets.append(connect_unix(str(export), timeout_s))
        return sockets[-1]

    return Dialler(connect, Wish(name, (), name, host.agent), host)(None)


def _keep_only(wanted: set[int]) -> None:
    """No descriptor but these, and nothing to be read or written on the first three."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    first = 3
    for fd in (*sorted(wanted), os.sysconf("SC_OPEN_MAX")):
        os.closerange(first, fd)
        first = fd + 1


def _end(child: int) -> None:
    """It has nothing to clean up."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
