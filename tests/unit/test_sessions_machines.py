"""The session machines against a random world: whatever fails, in whatever order answers come, the promises hold."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_agent.errors import (
    ConnectionLost,
    ErrorRecord,
    RepositoryAway,
    SessionFenced,
    SnapshotFailed,
    UsageError,
)
from holdfast_agent.model.change import ChangeMode
from holdfast_manager.sessions import events as e
from holdfast_manager.sessions import instructions as i
from holdfast_manager.sessions.backup_machine import BackupMachine
from holdfast_manager.sessions.driver import lane_of
from holdfast_manager.sessions.restore_machine import RestoreMachine
from holdfast_manager.sessions.story import IllegalTransition
from holdfast_manager.sessions.task_machine import RetryPolicy
from holdfast_manager.steps import Step

AWAY = RepositoryAway(agent="store", waited_s=58).to_record()
RETRYABLE = ConnectionLost(peer="proxy", reason="test").to_record()
FINAL = UsageError(reason="test").to_record()
FENCED = SessionFenced(sid="0" * 32).to_record()
SNAPSHOT = SnapshotFailed(vm="vm", reason="test").to_record()
POLICY = RetryPolicy(retries=2, pause_s=0)


class World:
    """Answers instructions in random order, failing some, and watches what a session must never do.

    As the driver does, it carries out the instructions of one task (or VM) one after the other; what follows of itself
    (a slot granted, a transfer finished) comes at any later time, unless the task was stopped meanwhile.
    """

    def __init__(
        self, rng: random.Random, failure_rate: float, vms: dict[str, list[str]], chained: bool = False
    ) -> None:
        """``chained``: each VM is planned to begin after the one before, as the points of a copy are."""
        self.rng = rng
        self.chained = chained
        self.failure_rate = failure_rate
        self.vms = vms
        self.lanes: dict[object, deque[Callable[[], list[e.Event]]]] = {}
        self.later: list[tuple[e.TaskKey, e.Event]] = []
        self.result = ""
        self.open_sessions: set[str] = set()
        self.snapshots: set[str] = set()
        self.slots: set[e.TaskKey] = set()
        self.movers: set[e.TaskKey] = set()
        self.transferred: dict[str, set[str]] = {}
        self.committed: set[str] = set()
        self.in_doubt: dict[str, bool] = {}
        self.missed: set[e.TaskKey] = set()
        self.doubted: set[e.TaskKey] = set()
        self.cancelled = False

    def run(self, machine: BackupMachine, cancel_after: int | None) -> None:
        self._tell(machine, e.SessionStarted())
        for step in range(20_000):
            if self.result and not any(self.lanes.values()):
                break
            if step == cancel_after:
                self.cancelled = True
                self._tell(machine, e.CancelRequested(reason="test"))
                continue
            for event in self._next():
                self._tell(machine, event)
        assert self.result, "the session does not come to an end"
        assert not self.snapshots, "a snapshot was left behind"
        assert not self.open_sessions, "a write session was left open"
        assert not self.slots, "slots were not given back"
        assert not self.movers, "movers were left running"
        assert self.doubted == self.missed, "what an audit found has consequences, and nothing else has"
        assert not (self.missed and self.result == "success"), "a missed change is always told"

    def _next(self) -> list[e.Event]:
        busy = [lane for lane in self.lanes.values() if lane]
        assert busy or self.later, "nothing is under way and the session has not ended: it hangs"
        choice = self.rng.randrange(len(busy) + len(self.later))
        if choice < len(busy):
            return busy[choice].popleft()()
        return [self.later.pop(choice - len(busy))[1]]

    def _do(self, lane: object, answer: Callable[[], list[e.Event]]) -> None:
        self.lanes.setdefault(lane, deque()).append(answer)

    def _tell(self, machine: BackupMachine, event: e.Event) -> None:
        if isinstance(event, e.TransferFinished):
            self.movers.discard(event.task)  # movers that finished are gone
        told = machine.handle(event)
        if isinstance(event, e.ChangesMissed) and i.DoubtPoints(task=event.task) in told:
            self.missed.add(event.task)
        for instruction in told:
            self._take(instruction)

    def _fails(self) -> bool:
        return self.rng.random() < self.failure_rate

    def _take(self, instruction: i.Instruction) -> None:
        match instruction:
            case i.EndSession():
                assert not self.result, "the session ended twice"
                self.result = instruction.result
            case i.PauseTask():
                self._do(("pause", instruction.task), lambda: [e.RetryDue(task=instruction.task)])
            case i.PauseVm():
                self._do(("pause", instruction.vm), lambda: [e.VmRetryDue(vm=instruction.vm)])
            case _:
                self._do(lane_of(instruction), lambda: self._answer(instruction))

    def _answer(self, instruction: i.Instruction) -> list[e.Event]:
        match instruction:
            case i.PlanVms():
                before = [None, *self.vms] if self.chained else [None] * len(self.vms)
                planned = tuple(
                    e.PlannedVm(vm, vm, tuple(disks), after)
                    for (vm, disks), after in zip(self.vms.items(), before, strict=False)
                )
                return [e.VmsPlanned(vms=planned)]
            case i.TaskInstruction():
                return self._answer_task(instruction)
            case i.VmInstruction():
                return self._answer_vm(instruction)
        raise AssertionError(instruction)

    def _answer_task(self, instruction: i.TaskInstruction) -> list[e.Event]:
        key = instruction.task
        if isinstance(instruction, i.StopTask | i.ReleaseTask):
            self.slots.discard(key)
            self.movers.discard(key)
            self.later = [each for each in self.later if each[0] != key]
            return [e.TaskStopped(task=key)] if isinstance(instruction, i.StopTask) else []
        if isinstance(instruction, i.DoubtPoints):
            self.doubted.add(key)
            return []
        if self._fails():
            error = self.rng.choice([RETRYABLE, RETRYABLE, FENCED, AWAY, FINAL])
            return [e.TaskFailed(task=key, error=error, at=Step.TRANSFER)]
        match instruction:
            case i.RequestSlot():
                assert not self.chained or self.open_sessions <= {key.vm}, "it began before the one before had ended"
                self.slots.add(key)
                self.later.append((key, e.SlotGranted(task=key, proxy="p", repository="r", waited_s=0)))
                return []
            case i.StartMovers():
                assert key in self.slots, "movers start with a slot only"
                assert key.vm in self.open_sessions, "movers start in an open write session only"
                self.movers.add(key)
                self.later.append((key, e.MoversConnected(task=key)))
                return [e.MoversStarted(task=key, rules="")]
            case i.BeginTransfer():
                assert key.vm in self.snapshots, "a disk is read while its snapshot exists only"
                self.transferred[key.vm].add(key.disk)
                ended: e.Event = e.TransferFinished(task=key)
                if self._fails():
                    ended = e.TaskFailed(task=key, error=RETRYABLE, at=Step.TRANSFER)
                self.later.append((key, ended))
                began: list[e.Event] = [e.TransferBegan(task=key, mode=ChangeMode.CBT, reason="")]
                if self._fails():
                    began.append(e.ChangesMissed(task=key, audited=64, missed=1))
                return began
        raise AssertionError(instruction)

    def _answer_vm(self, instruction: i.VmInstruction) -> list[e.Event]:
        vm = instruction.vm
        match instruction:
            case i.AbandonVm():
                assert vm not in self.committed
                assert not any(key.vm == vm for key in self.movers), "abandoned while movers still write"
                self.snapshots.discard(vm)
                self.open_sessions.discard(vm)
                if vm in self.in_doubt:
                    if self._fails():
                        return [e.VmAbandoned(vm=vm, unsettled=True)]
                    if self.in_doubt.pop(vm):
                        self.committed.add(vm)
                        return [e.PointCommitted(vm=vm, sid="s")]
                return [e.VmAbandoned(vm=vm)]
            case i.RemoveSnapshot():
                assert vm in self.committed, "a snapshot is removed after the commit"
                self.snapshots.discard(vm)
                return [e.SnapshotRemoved(vm=vm, warning=self.rng.choice(["", "kept"]))]
        if self._fails():
            if isinstance(instruction, i.CommitPoint):  # its answer was lost
                self.in_doubt[vm] = self.rng.random() < 0.5
            return [e.VmFailed(vm=vm, error=self.rng.choice([SNAPSHOT, FINAL]), at=instruction.step)]
        match instruction:
            case i.BeginRepositorySession():
                assert vm not in self.open_sessions, "the last write session was not closed"
                assert vm not in self.in_doubt, "a second point is begun while the first may be there"
                self.open_sessions.add(vm)
                self.transferred[vm] = set()
                return [e.RepositorySessionBegun(vm=vm, sid="s", base=None)]
            case i.ReadInventory():
                if self.rng.random() < 0.2:
                    self.vms[vm] = [f"disk{n}" for n in range(self.rng.randint(1, 3))]
                return [e.InventoryRead(vm=vm, disks=tuple(self.vms[vm]))]
            case i.TakeSnapshot():
                assert vm not in self.snapshots, "one snapshot at a time"
                self.snapshots.add(vm)
                quiesced = e.GuestQuiesced(vm=vm, consistency="crash", note="")
                return [quiesced, e.SnapshotTaken(vm=vm, snapshot="1", frozen_s=0, note="")]
            case i.CommitPoint():
                assert self.transferred[vm] >= set(self.vms[vm]), "committed with a disk missing"
                self.committed.add(vm)
                self.open_sessions.discard(vm)
                return [e.PointCommitted(vm=vm, sid="s")]
        raise AssertionError(instruction)


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rate=st.sampled_from([0.0, 0.02, 0.1, 0.4, 1.0]),
    disks=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    cancel_after=st.none() | st.integers(0, 60),
    chained=st.booleans(),
)
def test_whatever_happens_a_backup_keeps_its_promises(
    seed: int, rate: float, disks: list[int], cancel_after: int | None, chained: bool
) -> None:
    vms = {f"vm{n}": [f"disk{d}" for d in range(count)] for n, count in enumerate(disks)}
    machine = BackupMachine(POLICY)
    world = World(random.Random(seed), rate, vms, chained)
    world.run(machine, cancel_after)
    if rate == 0.0 and not world.cancelled:
        assert world.committed == set(vms)
        assert world.result in ("success", "warning")
    if world.result in ("success", "warning"):
        assert world.committed == set(vms), "success without a point of every VM"


def backup_to(instruction: type[i.Instruction]) -> tuple[BackupMachine, list[i.Instruction]]:
    """A one-disk backup that has just been told to do ``instruction``."""
    machine = BackupMachine(POLICY)
    key = e.TaskKey("vm", "disk")
    story: list[e.Event] = [
        e.SessionStarted(),
        e.VmsPlanned(vms=(e.PlannedVm("vm", "vm", ("disk",)),)),
        e.SlotGranted(task=key, proxy="p", repository="r", waited_s=0),
        e.RepositorySessionBegun(vm="vm", sid="s", base=None),
        e.MoversConnected(task=key),
        e.InventoryRead(vm="vm", disks=("disk",)),
        e.SnapshotTaken(vm="vm", snapshot="1", frozen_s=0, note=""),
        e.TransferFinished(task=key),
        e.PointCommitted(vm="vm", sid="s"),
        e.SnapshotRemoved(vm="vm"),
    ]
    for event in story:
        told = machine.handle(event)
        if any(isinstance(each, instruction) for each in told):
            return machine, told
    raise AssertionError(f"the story never comes to {instruction.__name__}")


def test_the_steps_follow_each_other_in_order() -> None:
    machine, told = backup_to(i.EndSession)
    assert told == [i.EndSession(result="success")]
    assert machine.ended


def test_a_commit_under_way_is_not_cancelled() -> None:
    machine, _ = backup_to(i.CommitPoint)
    assert machine.handle(e.CancelRequested(reason="test")) == []
    assert machine.handle(e.PointCommitted(vm="vm", sid="s")) == [i.RemoveSnapshot(vm="vm")]
    assert machine.handle(e.SnapshotRemoved(vm="vm")) == [i.EndSession(result="success")]


def test_a_point_that_was_committed_before_it_was_abandoned_stays_committed() -> None:
    """The commit's answer was lost: the repository says so when the session is to be abandoned."""
    machine, _ = backup_to(i.CommitPoint)
    assert machine.handle(e.VmFailed(vm="vm", error=RETRYABLE, at=Step.COMMIT)) == [i.AbandonVm(vm="vm")]
    assert machine.handle(e.PointCommitted(vm="vm", sid="s")) == [i.RemoveSnapshot(vm="vm")]
    assert machine.handle(e.SnapshotRemoved(vm="vm")) == [i.EndSession(result="success")]


def unsettled_backup() -> BackupMachine:
    """One whose commit's answer was lost with the agent; its pause is just over."""
    machine, _ = backup_to(i.CommitPoint)
    machine.handle(e.VmFailed(vm="vm", error=RETRYABLE, at=Step.COMMIT))
    assert machine.handle(e.VmAbandoned(vm="vm", unsettled=True)) == [i.PauseVm(vm="vm", seconds=0)]
    assert machine.handle(e.VmRetryDue(vm="vm")) == [i.AbandonVm(vm="vm")], "first it is asked for once more"
    return machine


def test_a_point_that_may_exist_is_asked_for_before_another_is_made() -> None:
    machine = unsettled_backup()
    assert machine.handle(e.PointCommitted(vm="vm", sid="s")) == [i.RemoveSnapshot(vm="vm")]
    assert machine.handle(e.SnapshotRemoved(vm="vm")) == [i.EndSession(result="success")]


def test_once_it_is_known_not_to_exist_the_attempt_that_waited_for_that_begins() -> None:
    machine = unsettled_backup()
    assert machine.handle(e.VmAbandoned(vm="vm")) == [i.RequestSlot(task=e.TaskKey("vm", "disk"))]


def test_a_point_that_stays_unsettled_uses_up_the_attempts() -> None:
    machine = unsettled_backup()
    for _ in range(POLICY.retries - 1):
        assert machine.handle(e.VmAbandoned(vm="vm", unsettled=True)) == [i.PauseVm(vm="vm", seconds=0)]
        assert machine.handle(e.VmRetryDue(vm="vm")) == [i.AbandonVm(vm="vm")]
    assert machine.handle(e.VmAbandoned(vm="vm", unsettled=True)) == [i.EndSession(result="failed")]


def test_a_change_that_tracking_missed_casts_doubt_and_is_a_warning() -> None:
    machine, _ = backup_to(i.BeginTransfer)
    key = e.TaskKey("vm", "disk")
    assert machine.handle(e.ChangesMissed(task=key, audited=64, missed=2)) == [i.DoubtPoints(task=key)]
    told = machine.handle(e.TransferFinished(task=key, mode=ChangeMode.DIGEST, reason="missed"))
    assert told == [i.ReleaseTask(task=key), i.CommitPoint(vm="vm")]
    machine.handle(e.PointCommitted(vm="vm", sid="s"))
    assert machine.handle(e.SnapshotRemoved(vm="vm")) == [i.EndSession(result="warning")]


@pytest.mark.parametrize("lost", [FENCED, AWAY], ids=lambda lost: str(lost.code))
def test_a_lost_write_session_starts_the_vm_anew_with_a_new_snapshot(lost: ErrorRecord) -> None:
    """The old one does not wait for the next attempt."""
    machine, _ = backup_to(i.BeginTransfer)
    key = e.TaskKey("vm", "disk")
    assert machine.handle(e.TaskFailed(task=key, error=lost, at=Step.TRANSFER)) == [i.StopTask(task=key)]
    assert machine.handle(e.TaskStopped(task=key)) == [i.AbandonVm(vm="vm")]
    assert machine.handle(e.VmAbandoned(vm="vm")) == [i.PauseVm(vm="vm", seconds=0)]
    assert machine.handle(e.VmRetryDue(vm="vm")) == [i.RequestSlot(task=key)]


@pytest.mark.parametrize(
    ("error", "tries"), [(RETRYABLE, 3), (FINAL, 1)], ids=["retryable: three tries", "final: one try"]
)
def test_only_retryable_failures_are_tried_again(error: ErrorRecord, tries: int) -> None:
    machine, _ = backup_to(i.BeginTransfer)
    key = e.TaskKey("vm", "disk")
    for attempt in range(1, tries + 1):
        assert machine.handle(e.TaskFailed(task=key, error=error, at=Step.TRANSFER)) == [i.StopTask(task=key)]
        told = machine.handle(e.TaskStopped(task=key))
        if attempt == tries:
            assert told == [i.AbandonVm(vm="vm")]
            break
        assert told == [i.PauseTask(task=key, seconds=0)]
        assert machine.handle(e.RetryDue(task=key)) == [i.RequestSlot(task=key)]
        granted = machine.handle(e.SlotGranted(task=key, proxy="p", repository="r", waited_s=0))
        assert granted == [i.StartMovers(task=key)]
        assert machine.handle(e.MoversConnected(task=key)) == [i.BeginTransfer(task=key)]


def test_unplanned_vms_make_the_session_partial() -> None:
    machine = BackupMachine(POLICY)
    machine.handle(e.SessionStarted())
    assert machine.handle(e.VmsPlanned(vms=(), unplanned=("broken",))) == [i.EndSession(result="failed")]


def test_what_was_left_out_makes_the_session_end_with_a_warning() -> None:
    machine = BackupMachine(POLICY)
    machine.handle(e.SessionStarted())
    assert machine.handle(e.VmsPlanned(vms=(), left_out=("suspect",))) == [i.EndSession(result="warning")]


def test_an_illegal_transition_tells_its_story() -> None:
    machine, _ = backup_to(i.TakeSnapshot)
    with pytest.raises(IllegalTransition, match=r"(?s)cannot take PointCommitted.*InventoryRead"):
        machine.handle(e.PointCommitted(vm="vm", sid="s"))


def restore_to_transfer(keep_going: bool, disks: int) -> tuple[RestoreMachine, list[e.TaskKey]]:
    machine = RestoreMachine(RetryPolicy(retries=0, pause_s=0), keep_going)
    keys = [e.TaskKey("vm", f"disk{n}") for n in range(disks)]
    assert machine.handle(e.SessionStarted()) == [i.PrepareTarget()]
    told = machine.handle(e.TargetPrepared(note="", tasks=tuple(keys)))
    assert told == [i.RequestSlot(task=key) for key in keys]
    for key in keys:
        machine.handle(e.SlotGranted(task=key, proxy="p", repository="r", waited_s=0))
        machine.handle(e.MoversConnected(task=key))
    return machine, keys


def test_a_restore_that_loses_one_disk_is_abandoned_whole() -> None:
    machine, (first, second) = restore_to_transfer(keep_going=False, disks=2)
    assert machine.handle(e.TransferFinished(task=first)) == [i.ReleaseTask(task=first)]
    machine.handle(e.TaskFailed(task=second, error=FINAL, at=Step.TRANSFER))
    assert machine.handle(e.TaskStopped(task=second)) == [i.AbandonTarget()]
    assert machine.handle(e.TargetAbandoned()) == [i.EndSession(result="failed")]


def test_a_verification_goes_on_past_a_broken_disk() -> None:
    machine, (first, second) = restore_to_transfer(keep_going=True, disks=2)
    machine.handle(e.TaskFailed(task=first, error=FINAL, at=Step.TRANSFER))
    assert machine.handle(e.TaskStopped(task=first)) == []
    assert machine.handle(e.TransferFinished(task=second)) == [i.ReleaseTask(task=second), i.FinishTarget()]
    assert machine.handle(e.TargetFinished(note="")) == [i.EndSession(result="partial")]


def test_a_heal_does_one_tree_after_the_other() -> None:
    """The next finds what the one before has stored, or could not."""
    machine = RestoreMachine(RetryPolicy(retries=0, pause_s=0), keep_going=True, one_by_one=True)
    first, second, third = keys = [e.TaskKey("vm", f"disk{n}") for n in range(3)]
    machine.handle(e.SessionStarted())
    assert machine.handle(e.TargetPrepared(note="", tasks=tuple(keys))) == [i.RequestSlot(task=first)]
    for key in (first, second):
        machine.handle(e.SlotGranted(task=key, proxy="p", repository="r", waited_s=0))
        machine.handle(e.MoversConnected(task=key))
        if key == first:
            told = machine.handle(e.TransferFinished(task=key))
            assert told == [i.ReleaseTask(task=first), i.RequestSlot(task=second)]
    assert machine.handle(e.TaskFailed(task=second, error=FINAL, at=Step.TRANSFER)) == [i.StopTask(task=second)]
    assert machine.handle(e.TaskStopped(task=second)) == [i.RequestSlot(task=third)]
    machine.handle(e.CancelRequested(reason="test"))
    assert machine.handle(e.TaskStopped(task=third)) == [i.AbandonTarget()]


def test_a_restore_with_nothing_to_transfer_finishes() -> None:
    machine = RestoreMachine(POLICY)
    machine.handle(e.SessionStarted())
    assert machine.handle(e.TargetPrepared(note="", tasks=())) == [i.FinishTarget()]


def test_a_cancelled_restore_leaves_nothing() -> None:
    machine, (key,) = restore_to_transfer(keep_going=False, disks=1)
    assert machine.handle(e.CancelRequested(reason="test")) == [i.StopTask(task=key)]
    assert machine.handle(e.TaskStopped(task=key)) == [i.AbandonTarget()]
    assert machine.handle(e.TargetAbandoned()) == [i.EndSession(result="cancelled")]


def test_movers_on_one_host_may_connect_before_they_are_said_to_have_started() -> None:
    machine = RestoreMachine(POLICY)
    key = e.TaskKey("vm", "disk")
    machine.handle(e.SessionStarted())
    machine.handle(e.TargetPrepared(note="", tasks=(key,)))
    assert machine.handle(e.SlotGranted(task=key, proxy="p", repository="r", waited_s=0)) == [i.StartMovers(task=key)]
    assert machine.handle(e.MoversConnected(task=key)) == [i.BeginTransfer(task=key)]
    assert machine.handle(e.MoversStarted(task=key, rules="")) == []
    assert machine.handle(e.TransferFinished(task=key)) == [i.ReleaseTask(task=key), i.FinishTarget()]
