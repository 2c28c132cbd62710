"""Which event tells a session's machine that an instruction has failed."""

from __future__ import annotations

from holdfast_agent.errors import HoldfastError

from .events import Event, SessionFailed, TargetFailed, TaskFailed, VmFailed
from .instructions import FinishTarget, Instruction, PrepareTarget, TaskInstruction, VmInstruction


def failure(instruction: Instruction, error: HoldfastError) -> Event:
    """The failure of the smallest thing that the instruction is about: a task, a VM, the target, or all."""
    record = error.to_record()
    match instruction:
        case TaskInstruction():
            return TaskFailed(task=instruction.task, error=record, at=instruction.step)
        case VmInstruction():
            return VmFailed(vm=instruction.vm, error=record, at=instruction.step)
        case PrepareTarget() | FinishTarget():
            return TargetFailed(error=record, at=instruction.step)
    return SessionFailed(error=record)
