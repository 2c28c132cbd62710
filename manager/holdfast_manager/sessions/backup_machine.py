"""A backup session as a whole: plans the job's VMs, runs each through its steps, and judges the outcome. Pure.

A copy is such a session too: its VMs are restore points, those of one VM after each other.
"""

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
        self._left_out = 0
        self._open: set[str] = set()
        self._waiting: dict[str, list[str]] = {}
        self._story = Story()

    def handle(self, event: Event) -> list[Instruction]:
        self._story.note(self._state, event)
        instructions = self._decide(event)
        match event:
            case TaskEvent():
                instructions += self._followers(event.task.vm)
            case VmEvent():
                instructions += self._followers(event.vm)
            case _:
                self._open = {name for name, vm in self.vms.items() if not vm.ended}
        if self._planned and not self.ended and not self._open:
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
        self._left_out = len(event.left_out)
        self.vms = {planned.vm: VmMachine(planned, self._policy) for planned in event.vms}
        if self._cancelled:
            return [instruction for vm in self.vms.values() for instruction in vm.cancel()]
        instructions = []
        for planned in event.vms:
            if planned.after is None:
                instructions += self.vms[planned.vm].start()
            else:
                self._waiting.setdefault(planned.after, []).append(planned.vm)
        return instructions

    def _followers(self, vm: str) -> list[Instruction]:
        """If ``vm`` has ended, however it ended: begin those that waited for it."""
        if not self.vms[vm].ended:
            return []
        self._open.discard(vm)
        followers = [self.vms[name] for name in self._waiting.pop(vm, ())]
        return [instruction for follower in followers if not follower.ended for instruction in follower.start()]

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
        return "warning" if self._left_out or any(vm.warnings for vm in done) else "success"
