"""What each step of a restore of files does: an export that nobody keeps, and a reader of the file systems on it."""

from __future__ import annotations

import secrets

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.units import format_size
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.files import FetchFiles, FilesFound
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import FilesSpec
from holdfast_manager.reports.table import printable

from .events import Event, TargetFailed, TargetFinished, TransferBegan, TransferFinished
from .export_actions import ExportActions
from .exporters import export_names
from .instructions import BeginTransfer, FinishTarget, Instruction
from .requests import ExportRequest, FilesRequest
from .tasks import Context

_MOST_NOTED = 20


class FilesActions(ExportActions):
    """Carries out the instructions of :class:`~.restore_machine.RestoreMachine` for a restore of files."""

    def __init__(self, context: Context, request: FilesRequest, keys: RepositoryKeys) -> None:
        export = ExportRequest(
            repository=request.repository,
            sid=request.sid,
            proxy=request.proxy,
            export=secrets.token_hex(4),
            disks=request.disks,
        )
        super().__init__(context, export, keys)
        self._wanted = request
        self._found: FilesFound | None = None

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case BeginTransfer():
                self._fetch()
                return None
            case FinishTarget():
                return TargetFinished(note=self._told())
        return super().perform(instruction)

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        if isinstance(instruction, FinishTarget):
            return TargetFailed(error=error.to_record(), at=instruction.step)
        return super().failed(instruction, error)

    def _fetch(self) -> None:
        wanted = self._wanted
        wish = FetchFiles(paths=wanted.paths, target=wanted.target, overwrite=wanted.overwrite, setuid=wanted.setuid)
        spec = FilesSpec(
            task_id=self._request.export,
            secret=b"",
            export=self._request.export,
            disks=tuple(export_names(self._disks)),
            wish=wish,
            volume=wanted.volume,
        )
        # Told first, for all may be there before the start has been answered.
        reason = f"to {wanted.target} on {wanted.proxy}"
        self._context.driver.post(TransferBegan(task=self._key, mode=None, reason=reason))
        self._start_mover(wanted.proxy, f"{secrets.token_hex(6)}-files", spec)

    def _ended(self, state: MoverState) -> None:
        found = state.result.files if state.result is not None else None
        if found is None:
            super()._ended(state)
            return
        self._found = found
        self._context.recorder.progress(self._key, state.counters)
        for complaint in found.complaints[:_MOST_NOTED]:
            self._context.recorder.note(printable(complaint), "warning")
        if found.complained > _MOST_NOTED:
            more = found.complained - _MOST_NOTED
            self._context.recorder.note(f"{more} more things could not be restored as they were", "warning")
        self._context.driver.post(TransferFinished(task=self._key, mode=None, reason=self._told()))

    def _told(self) -> str:
        found = self._found or FilesFound()
        counts = ((found.files, "file"), (found.folders, "folder"), (found.links, "link"))
        told = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
        return f"{', '.join(told) or 'nothing'} ({format_size(found.file_bytes)}) to {self._wanted.target}"
