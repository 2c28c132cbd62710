"""Real mover processes as the Transport Service starts them, and pairs of them over loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from holdfast_agent.errors import HoldfastError, from_record
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import BlockId, Sid, new_sid
from holdfast_agent.model.link import LinkTimeouts
from holdfast_agent.model.rules import Route, TransferRules
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.repository.repository import SessionLock
from holdfast_agent.service.mover_birth import MOVER_COMMAND, mover_environment
from holdfast_agent.service.mover_process import PROGRAMS
from holdfast_agent.wire.movers import (
    Begin,
    Connected,
    Failed,
    Finished,
    FromMover,
    Listening,
    MoverHost,
    MoverSetup,
    Progressed,
    Stop,
    ToMover,
)
from holdfast_agent.wire.specs import (
    AnySpec,
    BackupOrder,
    BlockTree,
    CheckerSpec,
    CheckOrder,
    MoverResult,
    OriginSpec,
    PairSpec,
    ReaderSpec,
    RestoreOrder,
    SourceSpec,
    TargetSpec,
    WriterSpec,
)
from lab import repositories as lab

F = TypeVar("F", bound=FromMover)
_decoder: msgspec.msgpack.Decoder[FromMover] = msgspec.msgpack.Decoder(
    Listening | Connected | Progressed | Finished | Failed
)
PATIENCE_S = 60.0
_RULES = TransferRules()


class Mover:
    """One mover process and both ends of its pipes. ``prefix``: a command that runs it elsewhere, with the same pid."""

    def __init__(self, spec: AnySpec, host: MoverHost, prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, *PROGRAMS.get(type(spec), MOVER_COMMAND)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=mover_environment(os.environ),
            pass_fds=() if host.session_fd is None else (host.session_fd,),
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._orders, self._reports = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._buffer = b""
        self.progress: list[TransferCounters] = []
        self.routes: list[Route] = []
        """That were told while something else was expected."""
        self.most_rss_bytes = 0
        try:
            self.send(MoverSetup(host=host, spec=spec))
        except BaseException:  # it has ended
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Mover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def send(self, frame: ToMover) -> None:
        body = msgspec.msgpack.encode(frame)
        view = memoryview(struct.pack("<I", len(body)) + body)
        while view:
            view = view[os.write(self._orders, view) :]

    def next(self, timeout_s: float = PATIENCE_S) -> FromMover:
        """The next frame. Raises TimeoutError, or EOFError once the process has closed its pipe."""
        deadline = time.monotonic() + timeout_s
        while True:
            if len(self._buffer) >= 4:
                (length,) = struct.unpack_from("<I", self._buffer)
                if len(self._buffer) >= 4 + length:
                    frame = _decoder.decode(self._buffer[4 : 4 + length])
                    self._buffer = self._buffer[4 + length :]
                    return frame
            if not select.select([self._reports], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the mover said nothing")
            chunk = os.read(self._reports, 1 << 16)
            if not chunk:
                raise EOFError("the mover is gone")
            self._buffer += chunk
            self._note_memory()

    def expect(self, kind: type[F], timeout_s: float = PATIENCE_S) -> F:
        """The next frame of this kind, noting progress; raises the mover's error if it fails instead."""
        while True:
            frame = self.next(timeout_s)
            if isinstance(frame, kind):
                return frame
            if isinstance(frame, Progressed):
                self.progress.append(frame.counters)
            elif isinstance(frame, Connected) and frame.route is not None:
                self.routes.append(frame.route)
            elif isinstance(frame, Failed):
                raise from_record(frame.error)

    def failure(self, timeout_s: float = PATIENCE_S) -> HoldfastError:
        """The error with which the mover ends."""
        try:
            frame = self.expect(Finished, timeout_s)
        except HoldfastError as error:
            self.process.wait(timeout_s)
            return error
        raise AssertionError(f"the mover succeeded: {frame}")

    def _note_memory(self) -> None:
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            self.most_rss_bytes = max(self.most_rss_bytes, int(line.split()[1]) * 1024)


class Done(msgspec.Struct):
    """What a finished pair left: results and counters of the proxy's and the repository's mover, and their memory."""

    proxy: MoverResult
    repository: MoverResult
    counters: TransferCounters
    stored_bytes: int
    rss_bytes: tuple[int, int]
    seconds: float


class Site:
    """A folder with a repository, disks and everything else that movers may touch.

    ``within``: both movers of a backup, restore or check are one process.
    """

    def __init__(self, folder: Path, within: bool = False) -> None:
        self.folder = folder
        self.within = within
        lab.create(folder / "repository")
        (folder / "cache").mkdir()
        (folder / "run").mkdir()
        (folder / "disks").mkdir()
        self.keys = lab.DATA_KEYS
        self.mover_number = 0

    def host(self, **changes: object) -> MoverHost:
        host = MoverHost(
            agent="lab",
            disk_paths=(str(self.folder / "disks"),),
            repository_paths=(str(self.folder),),
            listen_address="127.0.0.1",
            advertised_addresses=("127.0.0.1",),
            port_range=(20000, 29999),
            cache_dir=str(self.folder / "cache"),
            runtime_dir=str(self.folder / "run"),
            workers=2,
            connect_timeout_s=20.0,
            stall_timeout_s=20.0,
            link=LinkTimeouts(silence_s=10.0, stall_s=20.0, resume_s=0.0),
        )
        return msgspec.structs.replace(host, **changes)

    @contextlib.contextmanager
    def session(self) -> Iterator[SessionLock]:
        """An open write session."""
        repository = lab.open_at(self.folder)
        lock = repository.begin_session(new_sid())
        try:
            yield lock
        finally:
            lock.close()
            repository.abort(lock.sid)
            repository.close()

    @contextlib.contextmanager
    def backup_pair(self, sid: Sid, rules: TransferRules = _RULES, **host: object) -> Iterator[tuple[Mover, Mover]]:
        """A connected (source, target)."""
        secret = secrets.token_bytes(32)
        self.mover_number += 1
        spec = TargetSpec(
            task_id="t", secret=secret, repository=str(self.folder / "repository"), sid=sid, mover=self.mover_number
        )
        with Mover(spec, self.host(**host)) as target:
            endpoints = target.expect(Listening).endpoints
            source_spec = SourceSpec(task_id="t", secret=secret, endpoints=endpoints, keys=self.keys, rules=rules)
            with Mover(source_spec, self.host(**host)) as source:
                source.expect(Connected)
                target.expect(Connected)
                yield source, target

    def backup(
        self,
        disk: str,
        geometry: Geometry,
        mode: ChangeMode = ChangeMode.ALLOCATION,
        base: tuple[BlockId, Geometry] | None = None,
        extents: tuple[Extent, ...] | None = None,
        sid: Sid | None = None,
        rules: TransferRules = _RULES,
        **order: object,
    ) -> Done:
        """Back a disk up with a pair of movers; the packs are published, nothing is committed.

        ``order``: further fields of the :class:`BackupOrder`.
        """
        with contextlib.ExitStack() as stack:
            sid = sid or stack.enter_context(self.session()).sid
            pair = self.backup_within(sid, rules) if self.within else self.backup_pair(sid, rules)
            source, target = stack.enter_context(pair)
            began = time.monotonic()
            whole = BackupOrder(
                geometry=geometry,
                disks=(disk,),
                mode=mode,
                base_root=base[0] if base else None,
                base_geometry=base[1] if base else None,
                extents=extents,
            )
            source.send(Begin(order=msgspec.structs.replace(whole, **order)))
            return _finish(source, target, began)

    @contextlib.contextmanager
    def backup_within(self, sid: Sid, rules: TransferRules = _RULES, **host: object) -> Iterator[tuple[Mover, Mover]]:
        """A source and a target in one process, twice."""
        self.mover_number += 1
        path = str(self.folder / "repository")
        source = SourceSpec(task_id="t", secret=b"", endpoints=(), keys=self.keys, rules=rules)
        target = TargetSpec(task_id="t", secret=b"", repository=path, sid=sid, mover=self.mover_number)
        with self._one_process(source, target, **host) as mover:
            yield mover, mover

    @contextlib.contextmanager
    def reading_pair(
        self, leader: type[WriterSpec] | type[CheckerSpec], rules: TransferRules = _RULES, **host: object
    ) -> Iterator[tuple[Mover, Mover]]:
        """A connected writer or checker, and its reader; twice the same if they are one process."""
        secret = secrets.token_bytes(32)
        reader_spec = ReaderSpec(task_id="t", secret=secret, repository=str(self.folder / "repository"), rules=rules)
        spec = leader(task_id="t", secret=secret, endpoints=(), keys=self.keys, rules=rules)
        if self.within:
            with self._one_process(spec, reader_spec, **host) as mover:
                yield mover, mover
            return
        with Mover(reader_spec, self.host(**host)) as reader:
            endpoints = reader.expect(Listening).endpoints
            with Mover(msgspec.structs.replace(spec, endpoints=endpoints), self.host(**host)) as mover:
                mover.expect(Connected)
                reader.expect(Connected)
                yield mover, reader

    @contextlib.contextmanager
    def _one_process(
        self, leader: SourceSpec | WriterSpec | CheckerSpec, follower: TargetSpec | ReaderSpec, **host: object
    ) -> Iterator[Mover]:
        spec = PairSpec(task_id="t", secret=b"", leader=leader, follower=follower)
        with Mover(spec, self.host(**host)) as mover:
            mover.expect(Connected)
            yield mover

    def check(self, trees: Iterable[tuple[BlockId, Geometry]], **how: float) -> Done:
        """Check every distinct record of these trees with a pair of movers."""
        with self.reading_pair(CheckerSpec) as (checker, reader):
            began = time.monotonic()
            checker.send(Begin(order=CheckOrder(trees=tuple(BlockTree(*tree) for tree in trees), **how)))
            return _finish(checker, reader, began)

    @contextlib.contextmanager
    def copy_trio(self, origin: Site, sid: Sid) -> Iterator[tuple[Mover, Mover, Mover]]:
        """A connected (source, target here, reader at ``origin``)."""
        inner, outer = secrets.token_bytes(32), secrets.token_bytes(32)
        self.mover_number += 1
        there = ReaderSpec(task_id="t", secret=inner, repository=str(origin.folder / "repository"))
        here = TargetSpec(
            task_id="t", secret=outer, repository=str(self.folder / "repository"), sid=sid, mover=self.mover_number
        )
        with Mover(there, origin.host()) as reader, Mover(here, self.host()) as target:
            found = OriginSpec(secret=inner, endpoints=reader.expect(Listening).endpoints, keys=origin.keys)
            endpoints = target.expect(Listening).endpoints
            spec = SourceSpec(task_id="t", secret=outer, endpoints=endpoints, keys=self.keys, origin=found)
            with Mover(spec, self.host()) as source:
                for mover in (source, target, reader):
                    mover.expect(Connected)
                yield source, target, reader

    def copy(self, origin: Site, order: BackupOrder, sid: Sid | None = None) -> tuple[Done, Mover]:
        """Copy a tree of ``origin`` to here; the packs are published, nothing is committed. Also the reader, ended."""
        with contextlib.ExitStack() as stack:
            sid = sid or stack.enter_context(self.session()).sid
            source, target, reader = stack.enter_context(self.copy_trio(origin, sid))
            began = time.monotonic()
            source.send(Begin(order=order))
            done = _finish(source, target, began)
            reader.expect(Finished)
            assert reader.process.wait(PATIENCE_S) == 0
            return done, reader

    def restore(self, root: BlockId, geometry: Geometry, disk: str | None, **how: Any) -> Done:
        """Restore a tree with a pair of movers, or only check it."""
        with self.reading_pair(WriterSpec) as (writer, reader):
            began = time.monotonic()
            writer.send(Begin(order=RestoreOrder(geometry=geometry, root=root, disk=disk, **how)))
            return _finish(writer, reader, began)


def stop(mover: Mover, reason: str = "the user asked for it") -> None:
    mover.send(Stop(reason=reason))


def _finish(proxy: Mover, repository: Mover, began: float) -> Done:
    try:
        first = proxy.expect(Finished, 300)
    except HoldfastError:
        if repository is not proxy:
            repository.failure()
        raise
    seconds = time.monotonic() - began
    second = first if repository is proxy else repository.expect(Finished)
    assert proxy.process.wait(PATIENCE_S) == 0
    assert repository.process.wait(PATIENCE_S) == 0
    stored = second.counters.stored_bytes
    rss = (proxy.most_rss_bytes, repository.most_rss_bytes)
    return Done(first.result, second.result, first.counters, stored, rss, seconds)
