"""Looks after the schedules of all jobs: what is due is started, what outlives its window is stopped."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from holdfast_agent.errors import HoldfastError, Locked
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.runs import Change, JobFacts, JobRuns
from holdfast_manager.catalog.values import JobSpec, LastSession, SessionEntry
from holdfast_manager.schedules.schedule import JobSchedule
from holdfast_manager.sessions.requests import of_job

from .due import Verdict, judge
from .starter import Starter

log = logging.getLogger(__name__)

_BROKEN_S = 60.0
"""Between two attempts to start a job where something is wrong with the host or the catalogue: a disk that is full."""
OCCUPIED_S = 5.0
"""Between two looks whether another copy into the same repository has ended: there is one at a time."""


@dataclass
class _Known:
    """What was found of a job at the last look, so that nothing is thought about twice.

    ``looked``: up to which arrival of its origin a copy job's points were looked for; ``arrived``: the newest of them.
    """

    text: str
    job: JobSpec
    facts: JobFacts | None = None
    before: LastSession | None = None
    wake: float | None = None
    looked: int = 0
    arrived: int = 0

    @property
    def schedule(self) -> JobSchedule | None:
        """None: the service does not run it."""
        return self.job.schedule if self.job.enabled else None


def _may_act(known: _Known, facts: JobFacts, before: LastSession | None, now: float) -> bool:
    """Whether time alone may change the verdict: something is due, or waits for a window, or may outlive its window."""
    if known.wake is not None and known.wake <= now:
        return True
    if known.schedule is None or not known.schedule.windows:
        return False
    lives = facts.last is not None and facts.last.ended is None
    return lives or (before is not None and before.id > facts.state.followed)


class JobWatch:
    """One look costs a query; only jobs of which something has changed, or that are due, are judged. One thread."""

    def __init__(self, catalog: Catalog, starter: Starter) -> None:
        self._catalog = catalog
        self._starter = starter
        self._known: dict[str, _Known] = {}

    def look(self, now: float) -> float | None:
        """Do all that is due at ``now``; when to look again at the latest, both Unix seconds. Raises ``Catalog``'s."""
        all_of_them = self._catalog.runs.look()
        ended = {facts.name: facts.ended for facts in all_of_them}
        self._known = {facts.name: self._recall(facts) for facts in all_of_them}
        wakes: list[float] = []
        changes: dict[str, Change] = {}
        for facts in all_of_them:
            known = self._known[facts.name]
            before = ended.get(known.schedule.after) if known.schedule is not None and known.schedule.after else None
            if known.facts != facts or known.before != before or _may_act(known, facts, before, now):
                verdict = judge(known.schedule, facts.state, now, facts.last, before, self._arrived(known, facts))
                known.facts, known.before, known.wake = facts, before, verdict.wake
                if verdict.state != facts.state and not verdict.begin:
                    changes[facts.name] = facts.state, verdict.state
                again_s = self._act(facts, verdict)
                if again_s is not None:
                    known.wake = now + again_s
            if known.wake is not None:
                wakes.append(known.wake)
        if changes and self._catalog.runs.save(changes) != changes.keys():
            return now  # another service, or the job is gone: the next look sees
        return min(wakes, default=None)

    def _recall(self, facts: JobFacts) -> _Known:
        known = self._known.get(facts.name)
        if known is not None and known.text == facts.spec:
            return known
        return _Known(facts.spec, msgspec.json.decode(facts.spec, type=JobSpec))

    def _arrived(self, known: _Known, facts: JobFacts) -> int:
        """The newest point that an immediate copy is for."""
        job = known.job
        if job.copy is not None and facts.arrivals != known.looked:
            after = max(known.looked, facts.state.arrived)
            known.arrived = self._catalog.points.newest_arrival(job.copy.origin, after, job.scope) or known.arrived
            known.looked = facts.arrivals
        return known.arrived

    def _act(self, facts: JobFacts, verdict: Verdict) -> float | None:
        """Carry a verdict out. After how many seconds to judge again, though nothing has changed; None: no need."""
        if verdict.given_up is not None:
            log.error("job %s: session %d failed, and so did its retries", facts.name, verdict.given_up)
        if verdict.stop is not None:
            log.warning("job %s: session %d is stopped, its backup window is over", facts.name, verdict.stop)
            self._catalog.sessions.request_stop(verdict.stop)
        if verdict.begin:
            return self._begin(facts, verdict)
        return None

    def _begin(self, facts: JobFacts, verdict: Verdict) -> float | None:
        if not self._starter.has_room:
            return 0.0
        job = self._known[facts.name].job
        if job.copy is not None and self._catalog.sessions.copying_into(job.repository) is not None:
            return OCCUPIED_S
        spec = of_job(job, verdict.again)
        claim = JobRuns.claim(facts.name, facts.state, verdict.state)

        def begin() -> SessionEntry:
            return self._catalog.sessions.begin_job(facts.name, spec, claim)

        try:
            entry = self._starter.start(begin)
        except Locked as error:  # somebody has just run it by hand, or another service leads
            log.info("job %s: %s", facts.name, error)
            return 0.0
        except (HoldfastError, OSError) as error:  # the other jobs must not wait for what is wrong with this one
            log.error("job %s could not be started: %s", facts.name, error)
            return _BROKEN_S
        log.info("job %s runs in session %d: %s", facts.name, entry.id, verdict.begin)
        return None
