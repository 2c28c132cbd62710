"""What each step of a boot proof does: an export that nobody keeps, and a guest that is started from it and watched."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from holdfast_agent.errors import BootNotProven, HoldfastError
from holdfast_agent.model.units import format_duration, format_size
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import BootProof, BootSpec, BootWish
from holdfast_manager.catalog.values import BootRecord
from holdfast_manager.reports.table import printable

from .events import Event, TargetFailed, TargetFinished, TaskFailed, TransferBegan, TransferFinished
from .export_actions import ExportActions
from .exporters import export_names
from .instructions import BeginTransfer, FinishTarget, Instruction
from .requests import BootRequest, ExportRequest
from .steps import Step
from .tasks import Context


class BootActions(ExportActions):
    """Carries out the instructions of :class:`~.restore_machine.RestoreMachine` for a boot proof.

    The disks are exported writable, for no guest boots without writing; what it wrote goes with the session.
    """

    def __init__(self, context: Context, request: BootRequest, keys: RepositoryKeys, proofs: Path) -> None:
        """``proofs``: where screenshots are kept, one for each restore point."""
        export = ExportRequest(
            repository=request.repository,
            sid=request.sid,
            proxy=request.proxy,
            export=secrets.token_hex(4),
            disks=request.disks,
            writable=True,
        )
        super().__init__(context, export, keys)
        self._wanted = request
        self._proofs = proofs
        self._proof: BootProof | None = None

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case BeginTransfer():
                self._boot()
                return None
            case FinishTarget():
                return TargetFinished(note=self._told())
        return super().perform(instruction)

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        if isinstance(instruction, FinishTarget):
            return TargetFailed(error=error.to_record(), at=instruction.step)
        return super().failed(instruction, error)

    def _boot(self) -> None:
        wanted = self._wanted.settings
        spec = BootSpec(
            task_id=self._request.export,
            secret=b"",
            export=self._request.export,
            disks=tuple(export_names(self._disks)),
            memory_mib=wanted.memory_bytes >> 20,
            cpus=wanted.cpus,
            bus=wanted.bus,
            firmware=wanted.firmware,
            wish=BootWish.CONSOLE if wanted.console else BootWish.AGENT,
            text=wanted.console,
            timeout_s=wanted.timeout_s,
            emulate=wanted.emulate,
        )
        # Told first, for the guest may be up before its start has been answered.
        reason = (
            f"booting with {format_size(wanted.memory_bytes)}, disks on {wanted.bus.value}, {wanted.firmware.value}"
        )
        self._context.driver.post(TransferBegan(task=self._key, mode=None, reason=reason))
        self._start_mover(self._wanted.proxy, f"{secrets.token_hex(6)}-boot", spec)

    def _ended(self, state: MoverState) -> None:
        proof = state.result.boot if state.result is not None else None
        if proof is None:
            super()._ended(state)
            return
        self._proof = proof
        record = BootRecord(
            proved=proof.proved,
            at=time.time(),
            session=self._context.session,
            reason=printable(proof.reason),
            seconds=proof.seconds,
            picture=self._keep_picture(proof),
        )
        self._context.catalog.points.set_boot(self._request.sid, record)
        if proof.proved:
            self._context.driver.post(TransferFinished(task=self._key, mode=None, reason=self._told()))
            return
        last = " / ".join(line for line in proof.console.splitlines()[-5:] if line.strip())
        if last:
            self._context.recorder.note(f"the end of its console: {last}")
        error = BootNotProven(reason=proof.reason).to_record()
        self._context.driver.post(TaskFailed(task=self._key, error=error, at=Step.TRANSFER))

    def _told(self) -> str:
        proof = self._proof
        return f"{proof.reason} after {format_duration(proof.seconds)}" if proof is not None else ""

    def _keep_picture(self, proof: BootProof) -> str:
        """Where; "" if there is none."""
        if not proof.screenshot:
            return ""
        try:
            self._proofs.mkdir(mode=0o700, parents=True, exist_ok=True)
            picture = self._proofs / f"{self._request.sid}.png"
            picture.write_bytes(proof.screenshot)
        except OSError as error:
            self._context.recorder.note(f"its screenshot could not be kept: {error.strerror}", "warning")
            return ""
        self._context.recorder.note(f"its screen: {picture}")
        return str(picture)
