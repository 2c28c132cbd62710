"""The driver: lanes, failures, timers and stop requests, with a machine that writes down what it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest

from holdfast_agent.errors import HoldfastError, Locked, SnapshotFailed, UsageError
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionKind
from holdfast_manager.sessions import events as e
from holdfast_manager.sessions import instructions as i
from holdfast_manager.sessions.driver import Driver
from holdfast_manager.sessions.failures import failure
from holdfast_manager.sessions.recorder import Recorder
from holdfast_manager.sessions.task_machine import RetryPolicy, TaskMachine
from holdfast_manager.steps import Step

KEY = e.TaskKey("vm", "disk")


class Script:
    """A machine that answers each kind of event as told, and remembers all."""

    def __init__(self, answers: dict[type[e.Event], list[i.Instruction]]) -> None:
        self.answers = answers
        self.heard: list[e.Event] = []

    def handle(self, event: e.Event) -> list[i.Instruction]:
        self.heard.append(event)
        return self.answers.get(type(event), [])


class Deeds:
    """Actions by table; without an entry an instruction is done and answered by nothing."""

    def __init__(self, deeds: dict[type[i.Instruction], Callable[[], e.Event | None]]) -> None:
        self.deeds = deeds
        self.errors: list[HoldfastError] = []

    def perform(self, instruction: i.Instruction) -> e.Event | None:
        deed = self.deeds.get(type(instruction))
        return deed() if deed else None

    def failed(self, instruction: i.Instruction, error: HoldfastError) -> e.Event:
        self.errors.append(error)
        return e.TaskFailed(task=KEY, error=error.to_record(), at=instruction.step)

    def tick(self) -> None:
        pass


def drive(catalog: Catalog, script: Script, deeds: Deeds, stop: Callable[[], str] = lambda: "") -> tuple[str, Recorder]:
    session = catalog.sessions.begin(SessionKind.VERIFY, {})
    recorder = Recorder(catalog, session.id)
    recorder.add_task(KEY, "vm", "disk", 4096)
    return Driver(recorder, stop, poll_s=0.01).run(script, deeds), recorder


END: list[i.Instruction] = [i.EndSession(result="success")]


def test_a_stop_waits_for_the_start_that_came_before_it(catalog: Catalog) -> None:
    order: list[str] = []
    stop_given = threading.Event()

    def start() -> e.Event:
        assert stop_given.wait(60), "the stop was given while the start runs"
        order.append("start")
        return e.MoversStarted(task=KEY, rules="")

    def stop() -> e.Event:
        order.append("stop")
        return e.TaskStopped(task=KEY)

    def other_lane() -> e.Event | None:
        stop_given.set()
        return None

    script = Script(
        {
            e.SessionStarted: [i.StartMovers(task=KEY), i.StopTask(task=KEY), i.ReadInventory(vm="vm")],
            e.TaskStopped: END,
        }
    )
    deeds = Deeds({i.StartMovers: start, i.StopTask: stop, i.ReadInventory: other_lane})
    result, _ = drive(catalog, script, deeds)
    assert result == "success"
    assert order == ["start", "stop"]
    kinds = [type(event) for event in script.heard]
    assert kinds == [e.SessionStarted, e.MoversStarted, e.TaskStopped], "the start's event comes before the stop's"


def test_typed_errors_and_defects_become_events(catalog: Catalog) -> None:
    def typed() -> e.Event:
        raise SnapshotFailed(vm="vm", reason="test")

    def defect() -> e.Event:
        raise ZeroDivisionError("a defect")

    class EndsAfterTwoFailures(Script):
        def handle(self, event: e.Event) -> list[i.Instruction]:
            told = super().handle(event)
            return END if [type(each) for each in self.heard].count(e.TaskFailed) == 2 else told

    script = EndsAfterTwoFailures({e.SessionStarted: [i.StartMovers(task=KEY), i.BeginTransfer(task=KEY)]})
    deeds = Deeds({i.StartMovers: typed, i.BeginTransfer: defect})
    result, recorder = drive(catalog, script, deeds)
    assert result == "success"
    assert [error.code for error in deeds.errors] == ["snapshot_failed", "internal_error"]
    assert recorder.first_error is not None
    assert recorder.first_error.code == "snapshot_failed"


def test_a_task_whose_stop_fails_comes_to_rest_all_the_same() -> None:
    """Nobody stops it a second time: a session would wait for ever, with its slots and its snapshot."""
    machine = TaskMachine(KEY, RetryPolicy(retries=0))
    broken = UsageError(reason="test")
    (request,) = machine.request()
    (stop,) = machine.handle(failure(request, broken))
    assert machine.handle(failure(stop, broken)) == []
    assert machine.at_rest and machine.given_up


def test_a_pause_ends_in_a_retry_and_a_stop_request_is_told_once(catalog: Catalog) -> None:
    asked: list[int] = []

    def stop() -> str:
        asked.append(1)
        return "test"

    script = Script({e.SessionStarted: [i.PauseTask(task=KEY, seconds=0.05)], e.RetryDue: END})
    result, _ = drive(catalog, script, Deeds({}), stop)
    assert result == "success"
    assert [type(event) for event in script.heard].count(e.CancelRequested) == 1
    assert len(asked) == 1, "once it was told, the driver does not ask again"


def test_what_happened_stands_in_the_catalogue_in_order_with_times(catalog: Catalog) -> None:
    failure = UsageError(reason="test").to_record()
    script = Script({e.SessionStarted: [i.RequestSlot(task=KEY)], e.TaskFailed: END})
    deeds = Deeds({i.RequestSlot: lambda: e.TaskFailed(task=KEY, error=failure, at=Step.SCHEDULE)})
    _, recorder = drive(catalog, script, deeds)
    recorder.ended("success", 1.0)
    recorder.flush()
    stored = catalog.events.after(recorder.session)
    assert [event.kind for event in stored] == ["SessionStarted", "TaskFailed", "SessionEnded"]
    assert stored[1].step == "schedule"
    assert stored[1].data["error"]["code"] == "usage"
    assert stored[1].data["took_s"] >= 0
    (task,) = catalog.tasks.list(recorder.session)
    assert task.state == "failed"
    assert task.error == failure


def test_a_catalogue_that_is_away_is_waited_out_and_then_told_all(catalog: Catalog) -> None:
    """Neither the question whether to stop nor what is to be written down ends a session."""
    away = threading.Event()
    asked: list[int] = []

    def stop() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise Locked(what="the configuration database", holder="a test")
        away.set()
        return ""

    class Busy(Recorder):
        def flush(self) -> None:
            with contextlib.ExitStack() as stack:
                if not away.is_set():
                    patch = stack.enter_context(pytest.MonkeyPatch.context())
                    patch.setattr(catalog.events, "append", refuse)
                super().flush()

    def refuse(_events: object, _tasks: object) -> None:
        raise Locked(what="the configuration database", holder="a test")

    session = catalog.sessions.begin(SessionKind.VERIFY, {})
    recorder = Busy(catalog, session.id)
    recorder.add_task(KEY, "vm", "disk", 4096)
    script = Script({e.SessionStarted: [i.PauseTask(task=KEY, seconds=0.1)], e.RetryDue: [i.BeginTransfer(task=KEY)]})
    script.answers[e.MoversStarted] = END

    def begin() -> e.Event:
        assert away.wait(60)
        return e.MoversStarted(task=KEY, rules="")

    assert Driver(recorder, stop, poll_s=0.01).run(script, Deeds({i.BeginTransfer: begin})) == "success"
    recorder.flush()
    told = [event.kind for event in catalog.events.after(session.id)]
    assert told == ["SessionStarted", "RetryDue", "MoversStarted"], "each once, in order"
    (task,) = catalog.tasks.list(session.id)
    assert (task.state, task.attempt) == ("starting", 2)
