"""What the sessions on the restore's machine have in common: restores, verifications, heals and collections."""

from __future__ import annotations

from abc import ABC, abstractmethod

from holdfast_agent.errors import HoldfastError

from .events import Event, TargetAbandoned
from .failures import failure
from .instructions import AbandonTarget, FinishTarget, Instruction, PrepareTarget, TaskInstruction
from .pair_tasks import PairTasks


class TargetActions(ABC):
    """Carries out the instructions of :class:`~.restore_machine.RestoreMachine`; see :class:`~.driver.Actions`."""

    def __init__(self, movers: PairTasks | None = None) -> None:
        """``movers``: what carries out the instructions for tasks; None for a kind of session that has none."""
        self._movers = movers

    @abstractmethod
    def prepare(self) -> Event:
        """All that comes before the tasks; TargetPrepared names them."""

    @abstractmethod
    def finish(self) -> Event:
        """All that comes after the tasks, once they have ended well enough."""

    def abandon(self) -> Event:
        """Leave nothing of what :meth:`prepare` made, for the session has failed."""
        return TargetAbandoned()

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case PrepareTarget():
                return self.prepare()
            case FinishTarget():
                return self.finish()
            case AbandonTarget():
                return self.abandon()
            case TaskInstruction() if self._movers is not None:
                return self._movers.perform(instruction)
        raise AssertionError(f"{type(self).__name__} has no {type(instruction).__name__}")

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        return failure(instruction, error)

    def tick(self) -> None:
        if self._movers is not None:
            self._movers.work.tick()
