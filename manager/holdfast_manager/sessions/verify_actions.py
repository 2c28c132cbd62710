"""What each step of a verification does. It runs on the restore's machine, with nowhere to write to."""

from __future__ import annotations

import time

from holdfast_agent.errors import HoldfastError, VerificationFailed
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Point
from holdfast_agent.model.units import format_size
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import Finding, ListPoints, PointList, VerifyBudget, VerifyEnded
from holdfast_manager.catalog.values import PointState

from .check_task import CheckTask
from .events import (
    Event,
    TargetFinished,
    TargetPrepared,
)
from .keyless import KeylessCheck, finding_text
from .point_reader import PointReader
from .requests import VerifyRequest
from .target_actions import TargetActions
from .tasks import Context

_FINDINGS_SHOWN = 200
_NO_BUDGET = VerifyBudget()


class VerifyActions(TargetActions):
    """Levels 0 and 1 are the repository agent's work and need no key. Level 2 reads no pack twice: presence and tables
    by the agent, then every distinct block once through a proxy that holds the key, then, if that found anything,
    the agent tells which points it touches. Points that a finding touches are marked suspect, so that no backup builds
    on them; those that level 2 found whole are good again.
    """

    def __init__(self, context: Context, request: VerifyRequest, keys: RepositoryKeys) -> None:
        self._context = context
        self._request = request
        self._keys = keys
        self._reader = PointReader(context, context.repository, keys)
        self._keyless = KeylessCheck(context)
        self._check = CheckTask(context, keys, request.proxy, request.budget)
        self._points: list[Point] = []
        self._found: set[tuple[str, str]] = set()
        self._suspect: set[Sid] = set()
        self._packs_left = 0
        super().__init__(self._check)
        self.tasks = self._check.work
        self.push = self._keyless.push

    def prepare(self) -> Event:
        request = self._request
        deep = request.level == 2
        budget = _NO_BUDGET if deep else request.budget
        ended = self._keyless.run(0 if deep else request.level, request.points, budget, tables=deep)
        self._take(ended)
        if not deep:
            return TargetPrepared(note=f"level {request.level}", tasks=())
        self._points = self._authentic_points()
        self._check_configurations()
        return TargetPrepared(note="level 2", tasks=(self._check.add(self._points),))

    def _take(self, ended: VerifyEnded) -> None:
        """The agent's findings, and in a line what it did."""
        for finding in ended.findings:
            self._found_wrong(finding)
        self._packs_left += ended.packs_left
        read, found = format_size(ended.checked_bytes), len(ended.findings)
        parts = [f"{ended.objects_checked:,} objects looked at, {read} read, {found or 'nothing'} wrong"]
        if ended.packs_checked or ended.packs_left:
            parts.append(f"{ended.packs_checked:,} packs read, {ended.packs_left:,} left for the next run")
        if ended.known:
            parts.append(f"{ended.known} bad things in quarantine that cost no data (any more)")
        if ended.noted:
            parts.append(f"{ended.noted} new in quarantine: the next backup of their disks stores them again")
        self._context.recorder.note("; ".join(parts))

    def _authentic_points(self) -> list[Point]:
        """All points that were asked for; one that is not there or not authentic is a finding, not the end."""
        points: list[Point] = []
        if self._request.points:
            for sid in self._request.points:
                try:
                    points.append(self._reader.point(sid))
                except HoldfastError as error:
                    if error.retryable:
                        raise
                    self._point_wrong(sid, error)
            return points
        after, more = "", True
        while more:
            request = ListPoints(repository=self._context.repository.path, after=after)
            page = self._context.pool.ask(self._context.repository.agent, request, PointList)
            for entry in page.points:
                try:
                    points.append(open_point(entry, self._keys))
                except HoldfastError as error:
                    self._point_wrong(entry.sid, error)
            more = page.more
            after = page.points[-1].sid if page.points else after
        return points

    def _point_wrong(self, sid: Sid, error: HoldfastError) -> None:
        name = f"points/{sid}"
        self._found_wrong(Finding(object=name, kind="point", detail=error.text, points=(sid,), lost=True))

    def _check_configurations(self) -> None:
        """The VMs' configurations are sealed under a key that never leaves the manager: they are opened here."""
        users: dict[str, list[Sid]] = {}
        for point in self._points:
            if point.config is not None:
                users.setdefault(point.config, []).append(point.sid)
        for blob, sids in users.items():
            try:
                self._reader.blob(blob)
            except HoldfastError as error:
                if error.retryable:
                    raise
                name = f"the VM configuration {blob[:16]}"
                wrong = Finding(object=name, kind="record", detail=error.text, points=tuple(sids), lost=True)
                self._found_wrong(wrong)

    def finish(self) -> Event:
        notes = []
        result = self._check.result
        if result is not None and result.bad_count:
            # What the checker found is in quarantine by now: the agent tells whom it touches.
            self._take(self._keyless.run(0, self._request.points, _NO_BUDGET))
            for bad in result.bad:
                self._found_bad(bad.id.hex(), bad.reason)
        if result is not None:
            notes.append(f"{result.blocks_checked} distinct blocks checked")
        if result is not None and result.skipped:
            notes.append(f"{result.skipped} left by the budget")
        if self._packs_left:
            notes.append(f"{self._packs_left} packs left by the budget")
        self._mark(whole=result is not None and not result.skipped)
        if self._found:
            raise VerificationFailed(repository=self._context.repository.name, findings=len(self._found))
        return TargetFinished(note="; ".join(["nothing wrong was found", *notes]))

    def _found_bad(self, record_id: str, reason: str) -> None:
        """A record that the agent's findings do not name: its repository cannot take notes."""
        if not any(record_id[:16] in name for _, name in self._found):
            self._found_wrong(Finding(object=record_id[:16], kind="record", detail=reason, lost=True))

    def _mark(self, whole: bool) -> None:
        points = self._context.catalog.points
        for sid in sorted(self._suspect):
            points.set_state(sid, PointState.SUSPECT)
        for point in self._points if whole else ():
            if point.sid not in self._suspect:
                points.set_verified(point.sid, time.time())
                points.clear(point.sid)

    def _found_wrong(self, finding: Finding) -> None:
        if (finding.kind, finding.object) in self._found:
            return
        self._found.add((finding.kind, finding.object))
        self._suspect.update(finding.points)
        if len(self._found) <= _FINDINGS_SHOWN:
            self._context.recorder.note(finding_text(finding), "error")
