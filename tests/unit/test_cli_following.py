"""Following: what plain lines tell and when, JSON lines, and how Ctrl-C is taken."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import msgspec
import pytest

from holdfast_agent.model.stats import TransferCounters
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import EventEntry, SessionEntry, SessionResult, TaskEntry
from holdfast_manager.cli import following
from holdfast_manager.cli.displays import JsonLines, NoDisplay, PlainDisplay
from holdfast_manager.cli.following import Look, follow, interrupts
from holdfast_manager.reports.gathering import whole_report


class Watch:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def task(session: int, processed: int = 0, **changes: Any) -> TaskEntry:
    entry = TaskEntry(
        session=session, vm_id="v", vm_name="web", disk_id="d", disk_name="root.img", state="transferring",
        counters=TransferCounters(size_bytes=1000, processed_bytes=processed),
    )  # fmt: skip
    return msgspec.structs.replace(entry, **changes)


def note(session: int, text: str) -> EventEntry:
    return EventEntry(session=session, time=0.0, kind="Note", data={"text": text})


@pytest.fixture
def running(stocked: Catalog) -> SessionEntry:
    return stocked.sessions.begin_job("web")


def test_plain_lines_of_progress_come_after_1_2_5_10_and_then_every_30_seconds(running: SessionEntry) -> None:
    watch, lines = Watch(), list[str]()
    told_at = []
    with PlainDisplay(lines.append, watch) as display:
        for second in range(100):
            watch.now = float(second)
            before = len(lines)
            display.show(Look(running, (task(running.id, second, id=1),), ()))
            if len(lines) > before:
                told_at.append(second)
    assert told_at == [1, 3, 8, 18, 48, 78]
    assert "web/root.img  8%  78 B of 0.98 KiB  1 B/s  15 min 22 s left" in lines[-1]


def test_plain_lines_tell_events_at_once_and_leave_routine_out(running: SessionEntry) -> None:
    lines = list[str]()
    who = {"task": {"vm": "v", "disk": "d"}}
    events = (
        note(running.id, "hello \x1b[2J"),
        EventEntry(session=running.id, time=0.0, kind="MoversConnected", step="connect", data=who),
        EventEntry(session=running.id, time=0.0, kind="TransferFinished", step="transfer", data=who),
    )
    counters = TransferCounters(read_bytes=1024, transferred_bytes=512, stored_bytes=512, sent_bytes=1024)
    PlainDisplay(lines.append, Watch()).show(Look(running, (task(running.id, id=1, counters=counters),), events))
    assert [line.split("  ", 1)[1].strip() for line in lines] == [
        "hello ?[2J",
        "transfer   web/root.img: read 1.00 KiB, transferred 512 B (x 2.0), stored 512 B",
    ]


def test_json_lines_are_events_as_they_come_and_tasks_when_they_change(running: SessionEntry) -> None:
    lines = list[str]()
    display = JsonLines(lines.append)
    display.show(Look(running, (task(running.id, 1),), (note(running.id, "a"),)))
    display.show(Look(running, (task(running.id, 1),), ()))
    display.show(Look(running, (task(running.id, 2),), (note(running.id, "b"),)))
    assert [next(iter(json.loads(line))) for line in lines] == ["event", "tasks", "event", "tasks"]


class Recording(NoDisplay):
    """Remembers what it was shown; ``acts`` are done one after each look."""

    def __init__(self, *acts: Any) -> None:
        self.texts: list[str] = []
        self._acts = list(acts)

    def show(self, look: Look) -> None:
        self.texts += [event.data["text"] for event in look.events]
        if self._acts:
            self._acts.pop(0)()


def test_every_event_is_shown_once_up_to_the_end(
    stocked: Catalog, running: SessionEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.0)
    monkeypatch.setattr(following, "_PAGE", 3)
    number = running.id

    def write(*texts: str) -> None:
        stocked.events.append([note(number, text) for text in texts])

    write("1", "2", "3", "4", "5", "6", "7")

    def end() -> None:
        write("9")
        stocked.sessions.end(number, SessionResult.SUCCESS)

    display = Recording(lambda: write("8"), lambda: None, end)
    with interrupts() as interrupt:
        assert follow(stocked, number, display, interrupt, lambda count: True)
    assert display.texts == list("123456789")
    assert whole_report(stocked, number).result is SessionResult.SUCCESS


def test_ctrl_c_is_asked_about_once_each_and_the_old_handler_comes_back(
    stocked: Catalog, running: SessionEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.0)
    before = signal.getsignal(signal.SIGINT)
    asked: list[int] = []

    def on_interrupt(count: int) -> bool:
        asked.append(count)
        return count < 2

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    display = Recording(press, lambda: None, press)
    with interrupts() as interrupt:
        assert not follow(stocked, running.id, display, interrupt, on_interrupt)
    assert asked == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before
