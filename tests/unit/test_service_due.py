"""What the service does about a job: its stories, and its invariants in random ones."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_manager.catalog.values import LastSession, RunState, SessionResult
from holdfast_manager.schedules.schedule import JobSchedule, Missed, in_order_of_chains, loop_of
from holdfast_manager.service.due import Verdict, judge

OK, FAILED, PARTIAL, CANCELLED = (
    SessionResult.SUCCESS,
    SessionResult.FAILED,
    SessionResult.PARTIAL,
    SessionResult.CANCELLED,
)
DAILY = JobSchedule(start=("daily 22:00",))
DAY_S = 86400.0


def at(text: str) -> float:
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC).timestamp()


class Job:
    """One job as the service sees it. Sessions live until told."""

    def __init__(self, schedule: JobSchedule | None, now: str) -> None:
        self.schedule = schedule
        self.state = RunState()
        self.last: LastSession | None = None
        self.before: LastSession | None = None
        self.arrived = 0
        self.now = at(now)
        self.look(now)

    def look(self, now: str | None = None) -> Verdict:
        """As the service does it: what is begun is remembered with its session."""
        self.now = self.now if now is None else at(now)
        verdict = judge(self.schedule, self.state, self.now, self.last, self.before, self.arrived)
        self.state = verdict.state
        if verdict.begin:
            assert self.last is None or self.last.ended is not None
            self.last = LastSession((self.last.id if self.last else 0) + 1, None, SessionResult.NONE)
            self.state = msgspec.structs.replace(verdict.state, session=self.last.id)
        return verdict

    def end(self, result: SessionResult) -> None:
        assert self.last is not None
        self.last = LastSession(self.last.id, self.now, result)


def test_a_job_starts_when_it_is_due_and_not_before_and_not_twice() -> None:
    job = Job(DAILY, "03-02 12:00")
    assert job.look("03-02 21:59").wake == at("03-02 22:00")
    assert job.look("03-02 22:00").begin == "by schedule"
    assert job.look().begin == ""
    job.end(OK)
    assert [job.look(now).begin for now in ("03-02 22:00", "03-02 23:00", "03-03 21:59")] == [""] * 3
    assert job.look("03-03 22:05").begin == "by schedule"


def test_what_was_due_before_the_schedule_was_made_or_changed_or_enabled_is_not_made_up_for() -> None:
    job = Job(DAILY, "03-02 23:00")
    assert job.look("03-02 23:01").begin == ""
    job.schedule = JobSchedule(start=("daily 10:00",))
    assert job.look("03-03 12:00").begin == ""
    job.schedule = None
    job.look("03-03 12:01")
    job.schedule = JobSchedule(start=("daily 10:00",))
    assert job.look("03-09 12:00").begin == ""
    assert job.look("03-10 10:00").begin == "by schedule"


def test_many_missed_starts_are_made_up_for_once_or_left_out() -> None:
    job = Job(JobSchedule(start=("every 1 h",)), "03-02 12:30")
    assert job.look("03-05 12:30").begin == "missed before"
    job.end(OK)
    assert job.look("03-05 12:31").begin == ""
    job = Job(JobSchedule(start=("daily 22:00",), missed=Missed.SKIP), "03-02 12:00")
    left_out = job.look("03-05 12:00")
    assert (left_out.begin, left_out.wake) == ("", at("03-05 22:00"))
    assert job.look("03-05 22:09").begin == "by schedule", "a service that was restarted is not too late"


def test_a_start_while_a_session_lives_is_left_out() -> None:
    job = Job(JobSchedule(start=("every 1 h",)), "03-02 12:30")
    job.look("03-02 13:00")
    assert job.look("03-02 15:30").begin == ""
    job.end(OK)
    assert job.look("03-02 15:31").begin == ""
    assert job.look("03-02 16:00").begin == "by schedule"


def test_what_failed_is_run_again_three_times_with_pauses_and_then_given_up() -> None:
    job = Job(DAILY, "03-02 12:00")
    job.look("03-02 22:00")
    for attempt, minute in ((1, 10), (2, 20), (3, 30)):
        job.end(PARTIAL if attempt == 2 else FAILED)
        waiting = job.look()
        assert (waiting.begin, waiting.given_up, waiting.wake) == ("", None, at(f"03-02 22:{minute}"))
        assert job.look(f"03-02 22:{minute - 1:02}").begin == ""
        again = job.look(f"03-02 22:{minute}")
        assert (again.begin, again.again) == (f"retry {attempt} of 3", attempt)
    job.end(FAILED)
    assert job.look().given_up == 4
    assert job.look().given_up is None
    assert job.look("03-03 21:00").begin == ""
    assert job.look("03-03 22:00").begin == "by schedule"
    job.end(FAILED)
    job.look()
    assert job.look("03-03 22:10").begin == "retry 1 of 3"


def test_cancelled_sessions_and_those_run_by_hand_are_not_run_again() -> None:
    job = Job(DAILY, "03-02 12:00")
    job.look("03-02 22:00")
    job.end(CANCELLED)
    assert job.look("03-02 23:00").begin == ""
    job.last = LastSession(7, at("03-02 23:30"), FAILED)
    assert [job.look(now).begin for now in ("03-02 23:30", "03-03 12:00")] == ["", ""]


def test_a_run_by_hand_takes_the_place_of_a_retry() -> None:
    job = Job(DAILY, "03-02 12:00")
    job.look("03-02 22:00")
    job.end(FAILED)
    job.look()
    job.last = LastSession(2, None, SessionResult.NONE)
    job.look("03-02 22:05")
    job.last = LastSession(2, at("03-02 22:06"), OK)
    assert [job.look(now).begin for now in ("03-02 22:06", "03-02 22:30")] == ["", ""]


def test_windows_keep_starts_back_and_stop_what_the_service_began() -> None:
    job = Job(JobSchedule(start=("daily 20:00",), windows=("22:00-06:00",)), "03-02 12:00")
    assert job.look("03-02 20:00").begin == ""
    assert job.look("03-02 22:00").begin == "missed before"
    assert job.look("03-03 05:59").stop is None
    assert job.look("03-03 06:00").stop == 1
    job.last = LastSession(2, None, SessionResult.NONE)
    assert job.look("03-03 12:00").stop is None, "somebody runs it by hand"


def test_a_retry_waits_for_the_window() -> None:
    job = Job(JobSchedule(start=("daily 22:00",), windows=("22:00-22:05",)), "03-02 12:00")
    job.look("03-02 22:00")
    job.end(FAILED)
    assert job.look("03-02 22:10").begin == ""
    assert job.look("03-03 22:00").begin == "by schedule"


def test_a_chained_job_follows_each_good_end_once() -> None:
    job = Job(JobSchedule(after="first"), "03-02 12:00")
    for number, result in ((4, FAILED), (5, CANCELLED)):
        job.before = LastSession(number, job.now, result)
        assert job.look().begin == ""
    job.before = LastSession(6, job.now, PARTIAL)
    assert job.look().begin == "after first"
    job.before = LastSession(7, job.now, OK)
    job.look()
    job.end(OK)
    assert job.look().begin == "after first", "what ended while it ran is followed, too"
    job.end(OK)
    assert job.look().begin == ""


def test_what_ended_before_a_chain_was_made_is_not_followed() -> None:
    job = Job(DAILY, "03-02 12:00")
    job.before = LastSession(9, job.now, OK)
    job.schedule = JobSchedule(after="first")
    assert [job.look().begin, job.look().begin] == ["", ""]


def test_a_new_point_starts_an_immediate_copy_and_none_is_overlooked() -> None:
    night = JobSchedule(immediate=True, windows=("22:00-06:00",), retries=1)
    job = Job(night, "03-02 12:00")
    job.arrived = 3
    assert job.look("03-02 21:59").begin == "", "not outside of its windows"
    assert job.look("03-02 22:00").begin == "for a new restore point"
    job.arrived = 4
    assert job.look("03-02 23:00").begin == "", "one at a time"
    job.end(OK)
    assert job.look().begin == "for a new restore point", "it came too late for the one before"
    job.end(FAILED)
    assert job.look("03-02 23:05").begin == ""
    assert job.look("03-02 23:10").begin == "retry 1 of 1"
    assert job.look("03-03 06:00").stop == 3
    job.end(CANCELLED)
    assert job.look("03-03 06:01").begin == ""
    assert job.look("03-03 22:00").begin == "for a new restore point", "what its window cut off goes on in the next"
    job.end(CANCELLED)
    assert job.look("03-03 22:01").begin == "", "but not what somebody stopped"


def test_clocks_that_jump() -> None:
    job = Job(DAILY, "03-02 12:00")
    job.look("03-02 22:00")
    job.end(OK)
    job.look("03-02 22:30")
    assert job.look("03-02 21:30").begin == job.look("03-02 22:00").begin == "", "one hour back: it ran already"
    assert job.look("03-03 22:00").begin == "by schedule"
    job.end(FAILED)
    job.look()
    job.look("09-01 12:00")  # a clock far ahead, for a while
    job.end(OK)
    job.look()
    job.look("03-04 12:00")
    assert job.look("03-04 22:00").begin == "by schedule"


STARTS = ["every 20 min", "daily 22:00", "mon-fri 01:30", "cron 5 */3 * * *"]
schedules = st.builds(
    JobSchedule,
    start=st.lists(st.sampled_from(STARTS), min_size=1).map(tuple),
    after=st.sampled_from(["", "other"]),
    immediate=st.booleans(),
    windows=st.sampled_from([(), ("20:00-04:00",), ("sat,sun", "mon-fri 08:00-09:00")]),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Havana"]),
    missed=st.sampled_from(list(Missed)),
    retries=st.integers(0, 3),
    retry_pause_s=st.sampled_from([0.0, 60.0, 3600.0]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(schedules, st.integers(0, 2**32), st.sampled_from(["03-27 10:00", "10-24 10:00", "06-01 10:00"]))
def test_in_any_story_the_invariants_hold(schedule: JobSchedule, seed: int, begin: str) -> None:
    chance = random.Random(seed)
    job = Job(schedule, begin)
    number, retries, handled = 0, 0, job.now
    runs = 0
    for _ in range(150):
        job.now += chance.choice([0.0, 5.0, 300.0, 1200.0, 7200.0, 40_000.0])
        enabled = chance.random() < 0.95
        job.schedule = schedule if enabled else None
        lives = job.last is not None and job.last.ended is None
        if lives and chance.random() < 0.5:
            job.end(chance.choice([OK, FAILED, PARTIAL, CANCELLED]))
            lives = False
        if chance.random() < 0.1:
            number += 1
            job.before = LastSession(number, job.now, chance.choice([OK, FAILED]))
        job.arrived += chance.random() < 0.2
        ended = job.last.ended if job.last else None
        failed_last = job.last is not None and job.last.result in (FAILED, PARTIAL)
        known = job.state.key != ""
        verdict = job.look()
        if not enabled:
            assert verdict.begin == "" and verdict.wake is None
            handled, retries = job.now, 0
            continue
        if verdict.begin:
            runs += 1
            assert not lives and schedule.allows(job.now)
            assert known or verdict.begin == "for a new restore point", "what was before the schedule is made up for"
        if verdict.begin.startswith("retry"):
            retries += 1
            assert retries <= schedule.retries and failed_last
            assert ended is not None and job.now >= ended + schedule.retry_pause_s
        elif verdict.begin.startswith(("by", "missed")):
            due = schedule.next_after(handled)
            assert due is not None and due <= job.now, "nothing was due since the last one"
            retries = 0
        elif verdict.begin:
            assert not verdict.begin.startswith("for") or schedule.immediate
            retries = 0
        elif not lives and schedule.allows(job.now) and schedule.immediate and known:
            assert job.state.arrived == job.arrived, "a point came and nothing copies it"
        elif not lives and schedule.allows(job.now) and schedule.missed is Missed.RUN and known:
            due = schedule.next_after(handled)
            assert due is None or due > job.now, "something is due and does not start"
        if lives or verdict.begin.startswith(("by", "missed")) or not known:
            handled = job.now
        again = judge(job.schedule, job.state, job.now, job.last, job.before, job.arrived)
        assert again.begin == "", "decided twice"
        assert verdict.wake is None or verdict.wake > job.now or not schedule.allows(job.now)
    assert runs or schedule.windows


def test_chains_are_put_in_order_and_loops_are_named() -> None:
    assert in_order_of_chains({"a": "c", "b": "", "c": "b", "d": "elsewhere"}) == ["b", "c", "d", "a"]
    assert set(in_order_of_chains({"a": "b", "b": "a"})) == {"a", "b"}
    assert loop_of("a", {"a": "b", "b": "c", "c": "a"}) == ("a", "b", "c", "a")
    assert loop_of("a", {"a": "b", "b": "c"}) == loop_of("x", {"a": "b"}) == ()


@pytest.mark.parametrize("table", [{}, {"windows": ["sat"]}, {"start": ["noon"]}, {"start": ["daily 22:00"], "x": 1}])
def test_a_schedule_that_says_nothing_or_nonsense_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, msgspec.defstruct("Strict", [], bases=(JobSchedule,), forbid_unknown_fields=True))
