"""A backup session as a whole: plans the job's VMs, runs each through its steps, and judges the outcome. Pure."""

from __future__ import annotations

from .events import CancelRequested, Event, SessionFailed, SessionStarted, TaskEvent, VmEvent, VmsPlanned
from .instructions import EndSession, Instruction, PlanVms
from .story import Story
from .task_machine import RetryPolicy
from .vm_machine import VmMachine, VmState


class BackupMachine:
    """``handle(event) → instructions``. Not thread-safe; owned by the session's driver."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.vms: dict[str, VmMachine] = {}
        self.ended = False
        self._policy = policy
        self._cancelled = False
        self._planned = False
        self._unplanned = 0
        self._story = Story()

    def handle(self, event: Event) -> list[Instruction]:
        self._story.note(self._state, event)
        instructions = self._decide(event)
        if self._planned and not self.ended and all(vm.ended for vm in self.vms.values()):
            instructions.append(self._end(self._result()))
        return instructions

    @property
    def _state(self) -> str:
        return "ended" if self.ended else "running" if self._planned else "planning"

    def _decide(self, event: Event) -> list[Instruction]:
        match event:
            case SessionStarted():
                return [PlanVms()]
            case CancelRequested():
                self._cancelled = True
                return [instruction for vm in self.vms.values() for instruction in vm.cancel()]
            case VmsPlanned() if not self._planned:
                return self._plan(event)
            case SessionFailed() if not self._planned:
                return [self._end("cancelled" if self._cancelled else "failed")]
            case TaskEvent():
                return self._vm(event.task.vm, event).handle(event)
            case VmEvent():
                return self._vm(event.vm, event).handle(event)
        raise self._story.illegal("backup session", self._state, event)

    def _plan(self, event: VmsPlanned) -> list[Instruction]:
        self._planned = True
        self._unplanned = len(event.unplanned)
        self.vms = {planned.vm: VmMachine(planned, self._policy) for planned in event.vms}
        begin = VmMachine.cancel if self._cancelled else VmMachine.start
        return [instruction for vm in self.vms.values() for instruction in begin(vm)]

    def _vm(self, vm: str, event: Event) -> VmMachine:
        if vm not in self.vms:
            raise self._story.illegal("backup session", self._state, event)
        return self.vms[vm]

    def _end(self, result: str) -> Instruction:
        self.ended = True
        return EndSession(result=result)

    def _result(self) -> str:
        done = [vm for vm in self.vms.values() if vm.state is VmState.DONE]
        if self._cancelled and len(done) < len(self.vms):
            return "cancelled"
        if len(done) < len(self.vms) + self._unplanned:
            return "partial" if done else "failed"
        return "warning" if any(vm.warnings for vm in done) else "success"
