"""A session as people see it, from a stored history: the ten steps, the disks, the load line, the problems."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import ConnectionLost, WrongKey
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.stats import StageTimes, TransferCounters
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.values import (
    EventEntry,
    SessionEntry,
    SessionKind,
    SessionResult,
    SessionState,
    TaskEntry,
)
from holdfast_manager.reports.session_report import SessionReport, session_report
from holdfast_manager.reports.session_text import session_text, summary_text
from holdfast_manager.reports.steps import covered
from holdfast_manager.sessions import events as happened
from holdfast_manager.steps import Step

T0 = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
MIB = 1 << 20
SID = Sid("3f2a1b0c" * 4)
BASE = Sid("11111111" * 4)
LOST = ConnectionLost(peer="tcp://proxy:8440", reason="reset").to_record()


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def session(**changes: Any) -> SessionEntry:
    entry = SessionEntry(
        id=12, kind=SessionKind.BACKUP, job="nightly", state=SessionState.ENDED, result=SessionResult.SUCCESS,
        created=T0, started=T0, ended=T0 + 20, process=ProcessIdentity("host1", "boot", 4711, 1),
    )  # fmt: skip
    return msgspec.structs.replace(entry, **changes)


def event(second: float, what: happened.Event, **more: Any) -> EventEntry:
    """As the session's recorder stores it."""
    data = msgspec.to_builtins(what)
    del data["type"]
    step = getattr(what, "at", None) or what.step
    return EventEntry(session=12, time=T0 + second, kind=type(what).__name__, step=step.value, data={**data, **more})


def note(second: float, text: str, level: str = "info") -> EventEntry:
    return EventEntry(session=12, time=T0 + second, kind="Note", data={"text": text, "level": level})


KEYS = {disk: happened.TaskKey("vm-1", disk) for disk in ("d0", "d1")}


def task(disk: str, **changes: Any) -> TaskEntry:
    counters = TransferCounters(
        size_bytes=100 * MIB, processed_bytes=100 * MIB, read_bytes=60 * MIB, zero_bytes=40 * MIB,
        unchanged_bytes=50 * MIB, deduplicated_bytes=2 * MIB, sent_bytes=8 * MIB, transferred_bytes=4 * MIB,
        stored_bytes=4 * MIB, elapsed_s=6.0, stages=StageTimes(5.94, 1.02, 0.24, 0.06),
    )  # fmt: skip
    entry = TaskEntry(
        id=int(disk[1]) + 1, session=12, vm_id="vm-1", vm_name="web", disk_id=disk, disk_name=f"disk{disk[1]}.img",
        state="finished", sid=SID, mode=ChangeMode.DIGEST, reason="compared with the point of yesterday",
        counters=counters, queue_wait_s=0.25, proxy="local", repository="main",
    )  # fmt: skip
    return msgspec.structs.replace(entry, **changes)


def backup() -> list[EventEntry]:
    """A backup of one VM with two disks, whose second disk waits for a slot."""
    return [
        event(0.0, happened.SessionStarted()),
        event(0.5, happened.VmsPlanned(vms=(happened.PlannedVm("vm-1", "web", ("d0", "d1")),)), took_s=0.5),
        event(0.75, happened.SlotGranted(task=KEYS["d0"], proxy="local", repository="main", waited_s=0.25)),
        event(1.0, happened.RepositorySessionBegun(vm="vm-1", sid=SID, base=BASE), took_s=0.25),
        event(2.0, happened.MoversStarted(task=KEYS["d0"], rules="lz4, encrypted"), took_s=1.0),
        event(2.5, happened.MoversConnected(task=KEYS["d0"])),
        event(2.75, happened.InventoryRead(vm="vm-1", disks=("d0", "d1")), took_s=0.25),
        event(3.75, happened.GuestQuiesced(vm="vm-1", consistency="file-system", note="scripts"), took_s=1.0),
        event(4.0, happened.SnapshotTaken(vm="vm-1", snapshot="s1", frozen_s=0.2, note="reflink"), took_s=1.25),
        event(4.0, happened.TransferBegan(task=KEYS["d0"], mode=ChangeMode.DIGEST, reason="compared"), took_s=0.0),
        event(10.0, happened.TransferFinished(task=KEYS["d0"])),
        event(7.0, happened.SlotGranted(task=KEYS["d1"], proxy="local", repository="main", waited_s=6.25)),
        event(8.0, happened.MoversStarted(task=KEYS["d1"], rules="lz4, encrypted"), took_s=1.0),
        event(8.5, happened.MoversConnected(task=KEYS["d1"])),
        event(9.0, happened.TransferBegan(task=KEYS["d1"], mode=ChangeMode.DIGEST, reason="compared"), took_s=0.5),
        event(16.0, happened.TransferFinished(task=KEYS["d1"])),
        event(17.0, happened.PointCommitted(vm="vm-1", sid=SID), took_s=1.0),
        event(19.0, happened.SnapshotRemoved(vm="vm-1", stood_s=14.5), took_s=2.0),
        EventEntry(session=12, time=T0 + 20, kind="SessionEnded", data={"result": "success"}),
    ]


GOLDEN = """\
Session 12: backup by job nightly: success

  Started:  2027-01-15 08:00:00
  Ended:    2027-01-15 08:00:20 (20.0 s)
  Ran as:   process 4711 on host1

Steps
   #  step       at          took     moved  what
   1  start      08:00:00  0.50 s            1 VM with 2 disks: web
   2  schedule   08:00:00  6.50 s            web/disk0.img: proxy local, repository main
                                             web/disk1.img: proxy local, repository main, after 6.25
                                               s in the queue
   3  movers     08:00:00  2.25 s            web: restore point 3f2a1b0c begun, compared with
                                               11111111
                                             web/disk0.img, web/disk1.img: movers run
   4  rules      08:00:02  0.00 s            web/disk0.img, web/disk1.img: lz4, encrypted
   5  connect    08:00:02  1.00 s            web/disk0.img, web/disk1.img: data channel open
   6  inventory  08:00:02  0.25 s            web: 2 disks
   7  guest      08:00:02  1.00 s            web: file-system-consistent (scripts)
   8  snapshot   08:00:03  0.25 s            web: reflink, guest held for 0.20 s
   9  transfer   08:00:04  12.0 s  8.00 MiB  web/disk0.img, web/disk1.img: digest: compared
                                             web/disk0.img, web/disk1.img: read 60.0 MiB,
                                               transferred 4.00 MiB (x 2.0), stored 4.00 MiB
  10  commit     08:00:16  3.00 s            web: restore point 3f2a1b0c committed
                                             web: snapshot removed, it stood for 14.5 s

Disks
  VM   disk       mode    processed      read      zero  unchanged     dedup  transferred    stored
  web  disk0.img  digest    100 MiB  60.0 MiB  40.0 MiB   50.0 MiB  2.00 MiB     4.00 MiB  4.00 MiB
  web  disk1.img  digest    100 MiB  60.0 MiB  40.0 MiB   50.0 MiB  2.00 MiB     4.00 MiB  4.00 MiB

  web/disk0.img:  digest: compared with the point of yesterday
  web/disk1.img:  digest: compared with the point of yesterday

Restore points
  point                             VM   state
  3f2a1b0c3f2a1b0c3f2a1b0c3f2a1b0c  web  file-system-consistent

Load
  Load:        Source 99% > Proxy 17% > Network 4% > Target 1%
  Bottleneck:  source
  Rate:        10.0 MiB/s read while transferring"""


def test_a_backup_is_told_in_ten_steps() -> None:
    assert session_text(session_report(session(), [task("d0"), task("d1")], backup())) == GOLDEN


def test_a_connection_that_broke_is_told_with_what_it_cost() -> None:
    counters = msgspec.structs.replace(task("d0").counters, resumed=2, resent_bytes=3 << 20)
    report = session_report(session(), [task("d0", counters=counters), task("d1")], backup())
    text = session_text(report)
    assert "web/disk0.img:  the connection between the movers broke and went on 2 times; 3.00 MiB sent again" in text
    assert text.count("sent again") == 1
    assert report.total.resumed == 2


def test_a_missed_change_is_told_with_its_numbers_and_by_the_mode_that_it_led_to() -> None:
    reason = "change tracking missed changes (2 of 64 audited blocks, the first at 5.00 MiB)"
    audited = msgspec.structs.replace(task("d0").counters, audited_blocks=64, missed_blocks=2)
    story = [
        *backup()[:10],
        event(10.0, happened.ChangesMissed(task=KEYS["d0"], audited=64, missed=2)),
        event(16.0, happened.TransferFinished(task=KEYS["d0"], mode=ChangeMode.DIGEST, reason=reason)),
    ]
    report = session_report(session(), [task("d0", counters=audited), task("d1")], story)
    text = session_text(report)
    flat = " ".join(text.split())
    assert "change tracking missed changes: 2 of 64 audited blocks differ; the whole disk is compared" in flat
    assert f"stored 4.00 MiB; digest: {reason}" in flat
    assert "web/disk0.img:  audit: 64 blocks read and compared, 2 had changed and were not told" in text
    assert text.count("audit:") == 1
    assert (report.disks[0].counters.missed_blocks, report.total.audited_blocks) == (2, 64)


def test_what_was_left_out_as_unused_is_told_with_its_reasons() -> None:
    found = "74.4 MiB of ext4 at 1.00 MiB is unused; XFS at 97.0 MiB is kept whole: it is not known"
    counters = msgspec.structs.replace(task("d0").counters, unused_bytes=74 << 20)
    story = [*backup()[:10], event(16.0, happened.TransferFinished(task=KEYS["d0"], unused=found))]
    report = session_report(session(), [task("d0", counters=counters), task("d1")], story)
    text = session_text(report)
    assert f"stored 4.00 MiB; {found}" in " ".join(text.split())
    assert "74.0 MiB unused" in summary_text(report)
    row = next(line for line in text.splitlines() if line.split()[:2] == ["web", "disk0.img"])
    assert "74.0 MiB" in row
    assert " unused " in text and " unused " not in session_text(session_report(session(), [task("d0")], backup()))
    assert report.total.unused_bytes == 74 << 20


def test_the_report_is_also_its_json() -> None:
    report = session_report(session(), [task("d0"), task("d1")], backup())
    document = msgspec.json.decode(msgspec.json.encode(report))
    assert [line["step"] for line in document["steps"]] == [step.value for step in Step]
    assert [line["number"] for line in document["steps"]] == list(range(1, 11))
    assert document["total"]["read_bytes"] == 120 * MIB
    assert document["points"] == [{"sid": SID, "vm": "web", "consistency": "file-system"}]
    assert msgspec.convert(document, SessionReport) == report


def test_a_session_that_never_came_far_shows_the_steps_it_did_not_reach() -> None:
    failed = session(result=SessionResult.FAILED, error=WrongKey(name="main", reason="none kept").to_record())
    text = session_text(session_report(failed, [], [event(0.0, happened.SessionStarted())]))
    assert "   9  transfer   -              -         -" in text
    assert "Errors\n  ! the key does not fit main: none kept\n" in text
    assert "holdfast repository unlock" in text
    assert "Load" not in text


def test_a_running_session_is_told_as_far_as_it_is() -> None:
    running = session(state=SessionState.RUNNING, result=SessionResult.NONE, ended=None)
    report = session_report(running, [task("d0", state="transferring")], backup()[:10])
    assert session_text(report).startswith("Session 12: backup by job nightly: running\n")
    assert report.rate_bytes_per_s == pytest.approx(60 * MIB / 6.0)  # by the mover's own clock


def test_a_disk_that_waits_says_for_what() -> None:
    running = session(state=SessionState.RUNNING, result=SessionResult.NONE, ended=None)
    why = "waiting for a slot on repository R, 3 ahead"
    waiting = task("d0", state="queued", mode=None, reason=why)
    assert why in session_text(session_report(running, [waiting], backup()[:2]))


def failures(*, good_in_the_end: bool) -> SessionReport:
    again = [
        event(5.0, happened.TaskFailed(task=KEYS["d0"], error=LOST, at=Step.TRANSFER)),
        event(5.5, happened.TaskStopped(task=KEYS["d0"]), took_s=0.5),
        event(6.0, happened.RetryDue(task=KEYS["d0"])),
        event(7.0, happened.TaskFailed(task=KEYS["d0"], error=LOST, at=Step.TRANSFER)),
    ]
    result = SessionResult.SUCCESS if good_in_the_end else SessionResult.FAILED
    error = None if good_in_the_end else LOST
    return session_report(
        session(result=result, error=error), [task("d0", attempt=3, error=error)], [*backup()[:10], *again]
    )


def test_an_error_is_told_once_with_how_often_and_what_to_do() -> None:
    report = failures(good_in_the_end=False)
    (problem,) = report.problems
    assert (problem.level, problem.about, problem.times, problem.at) == ("error", "web/disk0.img", 2, "transfer")
    assert problem.action == LOST.action
    assert "(at transfer, 2 times)" in session_text(report)
    assert "took 3 attempts" in session_text(report)


def test_a_reason_is_told_in_one_place() -> None:
    why = LOST.message
    text = session_text(failures(good_in_the_end=False))
    assert text.count(why) == 1 and "web/disk0.img: failed\n" in text
    told_by_the_steps = session_report(session(), [task("d0", reason="compared")], backup())
    assert session_text(told_by_the_steps).count("digest: compared") == 1


def test_what_only_the_names_of_attempts_tell_apart_is_one_problem() -> None:
    def failed(second: float, name: str) -> EventEntry:
        error = msgspec.structs.replace(LOST, message=f"no /vms/snapshot-{name}/disk")
        return event(second, happened.TaskFailed(task=KEYS["d0"], error=error, at=Step.TRANSFER))

    attempts = [failed(number, f"{number:016x}") for number in range(5, 8)]
    points = [failed(8, "5" * 32), failed(9, "6" * 32)]
    report = session_report(session(result=SessionResult.FAILED), [], [*backup()[:10], *attempts, *points])
    assert [(each.message[17:34], each.times) for each in report.problems] == [
        ("0000000000000007/", 3), ("5" * 17, 1), ("6" * 17, 1),
    ]  # fmt: skip


def test_a_failure_that_a_retry_made_good_is_a_warning() -> None:
    assert [problem.level for problem in failures(good_in_the_end=True).problems] == ["warning"]


def test_the_time_of_a_transfer_that_failed_counts() -> None:
    transfer = failures(good_in_the_end=True).steps[8]
    assert transfer.took_s == pytest.approx(1.5 + 1.0)  # 4.0 to 5.5 with the stop; 6.0 to 7.0


def test_warnings_come_from_events_and_notes() -> None:
    history = [
        *backup()[:7],
        event(3.0, happened.GuestQuiesced(vm="vm-1", consistency="crash", note="", warning="the script failed")),
        note(3.5, "the agent was lost", "warning"),
        note(3.5, "nothing special"),
        event(4.0, happened.SnapshotRemoved(vm="vm-1", warning="busy")),
    ]
    report = session_report(session(result=SessionResult.WARNING), [], history)
    assert [(each.level, each.about, each.message) for each in report.problems] == [
        ("warning", "web", "the script failed"),
        ("warning", "", "the agent was lost"),
        ("warning", "web", "busy"),
    ]


def test_a_note_that_repeats_the_sessions_error_is_not_told_twice() -> None:
    error = WrongKey(name="main", reason="none kept")
    failed = session(result=SessionResult.FAILED, error=error.to_record())
    assert len(session_report(failed, [], [note(1.0, str(error), "error")]).problems) == 1


def test_what_a_hypervisor_calls_things_does_not_steer_the_terminal() -> None:
    report = session_report(session(), [task("d0", vm_name="web\x1b[2J\n", disk_name="d\t0")], [])
    for text in (session_text(report), summary_text(report)):
        assert "\x1b" not in text
        assert "\t" not in text
    assert "web?[2J?" in session_text(report)


def test_a_history_from_another_version_is_told_as_well_as_it_can_be() -> None:
    history = [
        EventEntry(
            session=12, time=T0, kind="SomethingNew", step="transfer", data={"task": {"vm": "vm-1", "disk": "d0"}}
        ),
        EventEntry(session=12, time=T0, kind="TaskFailed", step="nonsense", data={"error": "not a record"}),
        EventEntry(session=12, time=T0, kind="VmsPlanned", step="start", data={}),
        EventEntry(session=12, time=T0, kind="SlotGranted", step="schedule", data={"waited_s": None}),
    ]
    report = session_report(session(), [task("d0")], history)
    assert "web/disk0.img: SomethingNew" in session_text(report)
    assert report.problems[0].message == "failed, with an error that cannot be read"


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0.0), ([(1, 3)], 2.0), ([(1, 3), (2, 4)], 3.0), ([(5, 6), (1, 3), (1, 2)], 3.0), ([(1, 9), (2, 3)], 8.0)],
)
def test_overlapping_spans_count_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans) == seconds


@pytest.mark.parametrize(
    ("kind", "spec", "what"),
    [
        (SessionKind.VERIFY, {"repository": "main", "level": 2}, "verification of main, level 2"),
        (SessionKind.GC, {"repository": "main", "dry_run": True}, "garbage collection of main, a dry run"),
        (
            SessionKind.RESTORE,
            {"sid": SID, "server": "lab", "name": "web2"},
            "restore of 3f2a1b0c to server lab as web2",
        ),
        (
            SessionKind.RESTORE,
            {"sid": SID, "proxy": "p", "directory": "/srv", "files": {"d0": "a.img"}},
            "restore of 3f2a1b0c to /srv/a.img on p",
        ),
        (SessionKind.RESTORE, {}, "restore of ? to  on None"),
    ],
)
def test_what_a_session_is_for(kind: SessionKind, spec: dict[str, Any], what: str) -> None:
    assert session_report(session(kind=kind, job="", spec=spec), [], []).what == what


def test_the_summary_of_a_restore_does_not_speak_of_storing() -> None:
    restore = session(kind=SessionKind.RESTORE, job="", spec={"sid": SID, "server": "lab", "name": "web2"})
    report = session_report(restore, [task("d0", mode=None)], [])
    assert " stored" not in summary_text(report)
    assert "restored while transferring" in summary_text(report)


def test_what_throttled_a_task_and_its_way_are_told() -> None:
    counters = msgspec.structs.replace(
        task("d0").counters,
        stages=StageTimes(1.0, 0.5, 0.1, 0.1, throttled_s=4.55),
        throttled_by={"traffic rule wan": 4.5, "write limit of main": 0.05},
    )
    events = backup()
    events[5] = msgspec.structs.replace(
        event(2.5, happened.MoversConnected(task=KEYS["d0"], source="10.0.0.5", target="10.8.0.9", streams=4)), task=1
    )
    report = session_report(session(), [task("d0", counters=counters), task("d1")], events)
    first, second = report.disks
    assert (first.source, first.target, first.streams) == ("10.0.0.5", "10.8.0.9", 4)
    assert (second.source, second.streams) == ("", 0)
    text = session_text(report)
    assert "web/disk0.img:  throttled 4.50 s by traffic rule wan\n" in text
    assert "Limits:      throttled 4.50 s by traffic rule wan\n" in text
    assert "10.0.0.5 to 10.8.0.9, 4 streams" in text
    assert report.total.throttled_by["traffic rule wan"] == 4.5
