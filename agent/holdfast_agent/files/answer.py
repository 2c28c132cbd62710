"""What a look into file systems comes to: a bounded answer, or files in a folder of this host."""

from __future__ import annotations

from holdfast_agent.errors import MalformedMessage
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.wire.files import MOST_RESULT_BYTES, FetchFiles, FileEntry, FilesFound, FilesWish, VolumeEntry
from holdfast_agent.wire.movers import MoverHost

from .frames import Complaint, Complete, Data, Found, Frame, Volumes
from .target import Target

_MOST_COMPLAINTS = 100


class Answer:
    """One thread. Takes a stranger's frames; ends with :meth:`end` or, for less than all, with :meth:`close`."""

    def __init__(self, wish: FilesWish, host: MoverHost) -> None:
        """Raises as :class:`~.target.Target`."""
        self._target = Target(wish, host, self._complain) if isinstance(wish, FetchFiles) else None
        self._room = MOST_RESULT_BYTES
        self._entries: list[FileEntry] = []
        self._volumes: tuple[VolumeEntry, ...] = ()
        self._complaints: list[str] = []
        self._complained = 0
        self._more = False

    @property
    def counters(self) -> TransferCounters:
        done = self._target.file_bytes if self._target is not None else 0
        return TransferCounters(processed_bytes=done, read_bytes=done, sent_bytes=done)

    def take(self, frame: Frame) -> None:
        """Raises :class:`MalformedMessage`, :class:`DiskUnwritable`."""
        match frame:
            case Complaint(path=path, reason=reason):
                if self._target is not None:
                    self._target.drop()
                self._complain(path, reason)
            case Volumes(volumes=volumes) if self._target is None:
                self._volumes = volumes
            case Found(entry=entry) if self._target is None:
                self._room -= entry.told_bytes
                if self._room < 0:
                    raise MalformedMessage(peer="the reader of file systems", reason="more than was asked for")
                self._entries.append(entry)
            case Found(entry=entry, same_as=same_as) if self._target is not None:
                self._target.found(entry, same_as)
            case Data(offset=offset, data=data) if self._target is not None:
                self._target.data(offset, data)
            case Complete() if self._target is not None:
                self._target.complete()
            case _:
                raise MalformedMessage(peer="the reader of file systems", reason=f"{type(frame).__name__} out of place")

    def end(self, more: bool) -> None:
        """All has been told. Raises as :meth:`~.target.Target.finish`."""
        self._more = more
        if self._target is not None:
            self._target.finish()

    def close(self) -> None:
        """Leave nothing half done. Idempotent, never raises."""
        if self._target is not None:
            self._target.abort()

    def result(self) -> FilesFound:
        target = self._target
        return FilesFound(
            volumes=self._volumes,
            entries=tuple(self._entries),
            more=self._more,
            files=target.files if target else 0,
            folders=target.folders if target else 0,
            links=target.links if target else 0,
            file_bytes=target.file_bytes if target else 0,
            complaints=tuple(self._complaints),
            complained=self._complained,
        )

    def _complain(self, path: bytes, reason: str) -> None:
        self._complained += 1
        if len(self._complaints) < _MOST_COMPLAINTS:
            self._complaints.append(f"{path[:1000].decode('utf-8', 'backslashreplace')}: {reason}")
