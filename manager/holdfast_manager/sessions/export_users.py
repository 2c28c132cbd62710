"""Sessions whose work is done on an export that nobody keeps: a second program reads it, and its end is theirs."""

from __future__ import annotations

import secrets
from abc import abstractmethod

from holdfast_agent.errors import HoldfastError
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.specs import AnySpec

from .events import Event, TargetFailed, TargetFinished, TransferBegan
from .export_actions import ExportActions
from .exporters import export_names
from .instructions import BeginTransfer, FinishTarget, Instruction
from .requests import BootRequest, ExportRequest, FilesRequest
from .tasks import Context


class ExportUser(ExportActions):
    """Carries out the instructions of :class:`~.restore_machine.RestoreMachine`; what the program is, others say."""

    def __init__(
        self, context: Context, request: BootRequest | FilesRequest, keys: RepositoryKeys, *, writable: bool = False
    ) -> None:
        export = ExportRequest(
            repository=request.repository,
            sid=request.sid,
            proxy=request.proxy,
            export=secrets.token_hex(4),
            disks=request.disks,
            writable=writable,
        )
        super().__init__(context, export, keys)

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case BeginTransfer():
                spec, reason = self.program(self._request.export, tuple(export_names(self._disks)))
                # Told first, for all may be over before the start has been answered.
                self._context.driver.post(TransferBegan(task=self._key, mode=None, reason=reason))
                self._start_mover(self._request.proxy, f"{secrets.token_hex(6)}-user", spec)
                return None
            case FinishTarget():
                return TargetFinished(note=self.told())
        return super().perform(instruction)

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        if isinstance(instruction, FinishTarget):
            return TargetFailed(error=error.to_record(), at=instruction.step)
        return super().failed(instruction, error)

    @abstractmethod
    def program(self, export: str, disks: tuple[str, ...]) -> tuple[AnySpec, str]:
        """What is started beside the exporter, which serves ``disks`` as ``export``; and what people are told of it."""

    @abstractmethod
    def told(self) -> str:
        """What came of it, in words for people."""
