"""Which event tells a session's machine that an instruction has failed."""

from __future__ import annotations

import logging

from holdfast_agent.errors import HoldfastError

from .events import Event, SessionFailed, TargetFailed, TaskFailed, TaskStopped, VmFailed
from .instructions import FinishTarget, Instruction, PrepareTarget, StopTask, TaskInstruction, VmInstruction

log = logging.getLogger(__name__)


def failure(instruction: Instruction, error: HoldfastError) -> Event:
    """The failure of the smallest thing that the instruction is about: a task, a VM, the target, or all.

    A task that is being stopped has failed already: its machine waits for the stop alone, and what could not be given
    back lapses with the session.
    """
    record = error.to_record()
    match instruction:
        case StopTask():
            log.warning("task %s was not stopped in order: %s", instruction.task, error)
            return TaskStopped(task=instruction.task)
        case TaskInstruction():
            return TaskFailed(task=instruction.task, error=record, at=instruction.step)
        case VmInstruction():
            return VmFailed(vm=instruction.vm, error=record, at=instruction.step)
        case PrepareTarget() | FinishTarget():
            return TargetFailed(error=record, at=instruction.step)
    return SessionFailed(error=record)
