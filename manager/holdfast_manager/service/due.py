"""What the service does about one job at a moment: start it, stop it, wait. Pure.

Invariants, each tested with random stories:

1. A job never starts while a session of it lives, outside of its windows, or while it is disabled.
2. Each start is dealt with once: it starts the job, it is left out because a session lives, or it is missed and the
   schedule says to leave that out. Many missed starts are made up for by one run.
3. A session that failed is run again at most ``retries`` times before the next start, never sooner than the pause.
4. What was decided is in the state that comes out: with that and the same facts nothing starts twice.
5. Clocks that are put back repeat no start; a state that comes from a clock that was far ahead blocks none.
6. A new point that an immediate copy waits for is dealt with by a session that begins after it; so none is overlooked.
"""

from __future__ import annotations

import msgspec

from holdfast_manager.catalog.values import LastSession, RunState, SessionResult
from holdfast_manager.schedules.schedule import JobSchedule, Missed

ON_TIME_S = 600.0
"""A start that is no older than this is not missed: a restart of the service, or of its host, lies between."""
_FAR_S = 86400.0
_GOOD = (SessionResult.SUCCESS, SessionResult.WARNING, SessionResult.PARTIAL)
_TO_RETRY = (SessionResult.FAILED, SessionResult.PARTIAL)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``begin``: why a session is to start now; empty for none. ``again``: the session whose failed VMs it is for.

    ``stop``: the session that is to stop, since its window is over. ``given_up``: the session that failed after the
    last retry. ``wake``: when to look again, if nothing else happens before; None: never by itself.
    """

    state: RunState
    begin: str = ""
    again: int | None = None
    stop: int | None = None
    given_up: int | None = None
    wake: float | None = None


def judge(
    schedule: JobSchedule | None,
    state: RunState,
    now: float,
    last: LastSession | None,
    before: LastSession | None,
    arrived: int = 0,
) -> Verdict:
    """What to do now. ``schedule`` None: the job has none or is disabled. ``last``: its own newest session.

    ``before``: the newest session that has ended of the job that it comes after. ``arrived``: the number of the newest
    point that it is to copy, whether it has done so or not; 0 for none.
    """
    if schedule is None:
        return Verdict(state=RunState())
    if state.key != schedule.key:
        followed = before.id if before is not None else 0
        state = msgspec.structs.replace(state, key=schedule.key, handled=now, followed=followed)
    state = _with_a_sane_clock(schedule, state, now)
    if last is not None and last.ended is None:
        return _while_it_lives(schedule, state, now, last)
    state, given_up = _settle(schedule, state, now, last)
    verdict = _start(schedule, state, now, before, arrived) if schedule.allows(now) else Verdict(state=state)
    if not verdict.begin:
        verdict = msgspec.structs.replace(verdict, wake=_wake(schedule, verdict.state))
    return msgspec.structs.replace(verdict, given_up=given_up)


def _with_a_sane_clock(schedule: JobSchedule, state: RunState, now: float) -> RunState:
    if state.handled > now + _FAR_S:
        state = msgspec.structs.replace(state, handled=now)
    if state.retry_at is not None and state.retry_at > now + schedule.retry_pause_s:
        state = msgspec.structs.replace(state, retry_at=now + schedule.retry_pause_s)
    return state


def _while_it_lives(schedule: JobSchedule, state: RunState, now: float, last: LastSession) -> Verdict:
    """Starts are left out: what they would save is being saved. One that the service began ends with its window."""
    stop = last.id if last.id == state.session and not schedule.allows(now) else None
    if stop is not None and schedule.immediate:
        state = msgspec.structs.replace(state, arrived=0)  # it goes on when the next window begins
    due = schedule.next_after(state.handled)
    if due is not None and due <= now:
        state = msgspec.structs.replace(state, handled=now)
    return Verdict(state=state, stop=stop, wake=_wake(schedule, state))


def _settle(
    schedule: JobSchedule, state: RunState, now: float, last: LastSession | None
) -> tuple[RunState, int | None]:
    """Deal with the end of a session that the service began; the session if that was the last retry."""
    if state.failed is not None and (last is None or last.id != state.failed):
        state = _without_retry(state)  # somebody ran the job meanwhile: how that ended counts
    if state.session is None:
        return state, None
    state = msgspec.structs.replace(state, session=None) if last is None or last.id != state.session else state
    if state.session is None or last is None or last.ended is None:
        return state, None
    settled = _without_retry(msgspec.structs.replace(state, session=None))
    if last.result not in _TO_RETRY:
        return settled, None
    if state.attempt >= schedule.retries:
        return settled, last.id
    due = min(last.ended, now) + schedule.retry_pause_s
    return msgspec.structs.replace(settled, failed=last.id, retry_at=due, attempt=state.attempt), None


def _without_retry(state: RunState) -> RunState:
    return msgspec.structs.replace(state, failed=None, retry_at=None, attempt=0)


def _start(schedule: JobSchedule, state: RunState, now: float, before: LastSession | None, arrived: int) -> Verdict:
    """Whatever it begins for: it copies all that has arrived."""
    verdict = _due(schedule, state, now, before, arrived)
    if not verdict.begin:
        return verdict
    return msgspec.structs.replace(verdict, state=msgspec.structs.replace(verdict.state, arrived=arrived))


def _due(schedule: JobSchedule, state: RunState, now: float, before: LastSession | None, arrived: int) -> Verdict:
    due = schedule.next_after(state.handled)
    if due is not None and due <= now:
        on_time = _on_time(schedule, due, now)
        state = msgspec.structs.replace(state, handled=now)
        if on_time or schedule.missed is Missed.RUN:
            return Verdict(state=_without_retry(state), begin="by schedule" if on_time else "missed before")
    if before is not None and before.id > state.followed and before.result in _GOOD:
        state = msgspec.structs.replace(_without_retry(state), followed=before.id)
        return Verdict(state=state, begin=f"after {schedule.after}")
    if schedule.immediate and arrived > state.arrived:
        return Verdict(state=_without_retry(state), begin="for a new restore point")
    if state.failed is not None and state.retry_at is not None and state.retry_at <= now:
        attempt = state.attempt + 1
        again = msgspec.structs.replace(state, failed=None, retry_at=None, attempt=attempt)
        return Verdict(state=again, begin=f"retry {attempt} of {schedule.retries}", again=state.failed)
    return Verdict(state=state)


def _on_time(schedule: JobSchedule, due: float, now: float) -> bool:
    """Whether the newest of the starts from ``due`` to ``now`` is not missed yet."""
    newest = due if due >= now - ON_TIME_S else schedule.next_after(now - ON_TIME_S)
    return newest is not None and newest <= now


def _wake(schedule: JobSchedule, state: RunState) -> float | None:
    moments = (schedule.next_after(state.handled), state.retry_at)
    return min((moment for moment in moments if moment is not None), default=None)
