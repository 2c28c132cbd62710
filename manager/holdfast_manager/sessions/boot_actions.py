"""What each step of a boot proof does: an export that nobody keeps, and a guest that is started from it and watched."""

from __future__ import annotations

import time
from pathlib import Path

from holdfast_agent.errors import BootNotProven
from holdfast_agent.model.units import format_duration, format_size
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import BootProof, BootSpec, BootWish
from holdfast_manager.catalog.values import BootRecord, BootSettings
from holdfast_manager.reports.table import printable
from holdfast_manager.steps import Step

from .events import TaskFailed, TransferFinished
from .export_users import ExportUser
from .requests import BootRequest
from .tasks import Context


class BootActions(ExportUser):
    """A boot proof. The disks are exported writable, for no guest boots without writing; what it wrote goes with the
    session."""

    def __init__(self, context: Context, request: BootRequest, keys: RepositoryKeys, proofs: Path) -> None:
        """``proofs``: where screenshots are kept, one for each restore point."""
        super().__init__(context, request, keys, writable=True)
        self._wanted = request
        self._proofs = proofs
        self._proof: BootProof | None = None

    def program(self, export: str, disks: tuple[str, ...]) -> tuple[BootSpec, str]:
        wanted = self._wanted.settings
        spec = BootSpec(
            task_id=export,
            secret=b"",
            export=export,
            disks=disks,
            memory_mib=wanted.memory_bytes >> 20,
            cpus=wanted.cpus,
            bus=wanted.bus,
            firmware=wanted.firmware,
            wish=_wish(wanted),
            text=wanted.console or wanted.command,
            timeout_s=wanted.timeout_s,
            emulate=wanted.emulate,
        )
        size = format_size(wanted.memory_bytes)
        return spec, f"booting with {size}, disks on {wanted.bus.value}, {wanted.firmware.value}"

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
            self._context.driver.post(TransferFinished(task=self._key, mode=None, reason=self.told()))
            return
        last = " / ".join(line for line in proof.console.splitlines()[-5:] if line.strip())
        if last:
            self._context.recorder.note(f"the end of its console: {last}")
        error = BootNotProven(reason=proof.reason).to_record()
        self._context.driver.post(TaskFailed(task=self._key, error=error, at=Step.TRANSFER))

    def told(self) -> str:
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


def _wish(settings: BootSettings) -> BootWish:
    if settings.command:
        return BootWish.COMMAND
    return BootWish.CONSOLE if settings.console else BootWish.AGENT
