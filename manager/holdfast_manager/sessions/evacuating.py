"""A member of a group is emptied: each of its points is copied to another member, read there, and only then removed.

Invariants:

1. A point is removed when another member has an equal that was read whole, is authentic, and is protected as it was.
   Both repositories are asked in the moment before; what the catalogue believes is not enough.
2. Whatever is cut off at whatever moment, the next evacuation does what is left: copies are known by their origin,
   those that were read by the catalogue, and what is removed twice is removed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import Cancelled, Locked, NotFound, UsageError
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Origin
from holdfast_agent.wire.messages import PointRetention, PointsPruned, PointToPrune, RetainPoint, TombstonePoints
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import PointEntryRow, PointState, SessionEntry, SessionKind, SessionResult
from holdfast_manager.enrolment.points import Ask, asking, stored_points
from holdfast_manager.reports.sentences import counted
from holdfast_manager.settings import ManagerSettings
from holdfast_manager.steps import Step

from .children import run_child
from .recorder import Recorder
from .requests import CopyRequest, VerifyRequest

_AT_ONCE = 1000  # points in one request, as the agent allows
_FAILED = (SessionResult.FAILED, SessionResult.CANCELLED)
Equals = tuple[PointEntryRow, PointEntryRow]
"""A point of the member that is emptied, and its equal in another."""


class _Connections(ExitStack):
    """One to the agent of each repository that is asked, for as long as a round of questions takes."""

    def __init__(self, catalog: Catalog, keys: KeyPair) -> None:
        super().__init__()
        self._catalog = catalog
        self._keys = keys
        self._asks: dict[str, Ask] = {}

    def ask(self, repository: str) -> Ask:
        if repository not in self._asks:
            self._asks[repository] = self.enter_context(asking(self._catalog, repository, self._keys))
        return self._asks[repository]


class Evacuation:
    """Used once, by a session of its own. ``stopped``: no more is wanted."""

    def __init__(
        self,
        settings: ManagerSettings,
        catalog: Catalog,
        recorder: Recorder,
        repository: str,
        stopped: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._recorder = recorder
        self._stopped = stopped
        self._keys = KeyPair.load(settings.identity_file)
        self._entry = catalog.repositories.set_sealed(repository, True)
        if self._entry.member_of is None:
            raise UsageError(
                reason=f"{repository} is in no group: there is no other member that its points could go to"
            )
        self._group = self._entry.member_of
        self._others = [each.name for each in catalog.groups.behind(self._group) if each.name != repository]
        if not self._others:
            raise NotFound(kind="other member of the group", name=self._group, advice="Add one to the group first")

    def run(self) -> SessionResult:
        """Until nothing is left, or no round moves anything. Raises ``Cancelled`` and what agents raise."""
        left = self._left()
        if left:
            self._note(f"restore points to move to {', '.join(self._others)}: {left}", step=Step.START)
        while left:
            self._copy()
            self._verify()
            before, left = left, self._remove()
            if left >= before:
                self._note(f"{counted(left, 'restore point')} left in {self._entry.name}; the log tells why", "warning")
                return SessionResult.PARTIAL
        self._note(f"{self._entry.name} holds no restore points any more; `holdfast repository gc` frees its space")
        return SessionResult.SUCCESS

    # --- copy, read ---------------------------------------------------------------------------------------------------

    def _copy(self) -> None:
        request = CopyRequest(origin=self._entry.name, repository=self._group, suspect=True, pruned=True)
        self._child("copied", partial(self._catalog.sessions.begin_copy, self._group, msgspec.to_builtins(request)))

    def _verify(self) -> None:
        """All copies that nobody has read since they were made."""
        with _Connections(self._catalog, self._keys) as connections:
            unread = [copy for _, copy in self._pairs(connections) if copy.verified is None]
        by_member: defaultdict[str, list[Sid]] = defaultdict(list)
        for copy in unread:
            by_member[copy.repository].append(copy.sid)
        for member, sids in sorted(by_member.items()):
            request = VerifyRequest(repository=member, level=2, points=tuple(sids))
            begin = partial(self._catalog.sessions.begin, SessionKind.VERIFY, msgspec.to_builtins(request))
            self._child(f"copies in {member} ({len(sids)}) read", begin)

    def _child(self, what: str, begin: Callable[[], SessionEntry]) -> None:
        """One that an evacuation left which died is waited for."""
        while True:
            self._check()
            try:
                entry = run_child(self._settings, self._catalog, partial(self._begun, what, begin), self._stopped)
                break
            except Locked as error:
                self._note(f"waits: {error.text}")
                time.sleep(self._settings.timing.poll)
                self._catalog.sessions.reap_dead()
        self._check()
        level = "warning" if entry.result in _FAILED else "info"
        self._note(f"session {entry.id}: {entry.result.value}", level, Step.TRANSFER)

    def _begun(self, what: str, begin: Callable[[], SessionEntry]) -> SessionEntry:
        entry = begin()
        self._note(f"{what} by session {entry.id}", step=Step.TRANSFER)
        return entry

    # --- remove -------------------------------------------------------------------------------------------------------

    def _remove(self) -> int:
        """Remove what stands elsewhere; how many points are left."""
        with _Connections(self._catalog, self._keys) as connections:
            ask = connections.ask(self._entry.name)
            there = [pair for pair in self._pairs(connections) if _as_good(*pair)]
            for original, copy in there:
                self._protect_alike(connections, original, copy)
            gone = self._prune(ask, [original for original, _ in there])
        if gone:
            what = counted(gone, "restore point")
            self._note(f"{what} removed from {self._entry.name}: all of it stands elsewhere, read whole")
        return self._left()

    def _protect_alike(self, connections: _Connections, original: PointEntryRow, copy: PointEntryRow) -> None:
        """The copy first, only then what is held is let go. What nobody may prune before a date stays until then."""
        points = self._catalog.points
        if original.held or original.retained_until > copy.retained_until:
            hold = True if original.held else None
            self._retain(connections.ask(copy.repository), copy, original.retained_until, hold)
        if original.boot is not None and copy.boot is None:
            points.set_boot(copy.sid, original.boot)
        if original.doubt and not copy.doubt:
            points.cast_doubt(copy.sid, original.doubt)
        if original.held:
            self._retain(connections.ask(original.repository), original, 0.0, hold=False)

    def _retain(self, ask: Ask, row: PointEntryRow, until: float, hold: bool | None) -> None:
        path = self._catalog.repositories.get(row.repository).path
        now = ask(RetainPoint(repository=path, sid=row.sid, until=until, hold=hold), PointRetention).retained
        self._catalog.points.set_retention(row.sid, now.until, now.hold)

    def _prune(self, ask: Ask, rows: list[PointEntryRow]) -> int:
        gone = 0
        for start in range(0, len(rows), _AT_ONCE):
            self._check()
            points = tuple(PointToPrune(sid=row.sid, reason="evacuated") for row in rows[start : start + _AT_ONCE])
            request = TombstonePoints(repository=self._entry.path, points=points, window_s=0.0)
            for outcome in ask(request, PointsPruned).outcomes:
                if outcome.error is None:
                    self._catalog.points.remove(outcome.sid)
                    gone += 1
                else:
                    self._note(outcome.error.message, "warning")
        return gone

    # --- what is where ------------------------------------------------------------------------------------------------

    def _left(self) -> int:
        with asking(self._catalog, self._entry.name, self._keys) as ask:
            listed = stored_points(self._catalog, self._entry.name, ask)
        for sid in listed.refused:
            self._note(f"restore point {sid} is not authentic, or too new for this version; it stays", "warning")
        return len(listed.rows)

    def _pairs(self, connections: _Connections) -> list[Equals]:
        """As the repositories have them now, authenticated; the best equal of each point."""
        mine = self._rows(connections, self._entry.name)
        others = [row for name in self._others for row in self._rows(connections, name).values()]
        theirs: dict[Origin, PointEntryRow] = {}
        for row in sorted(others, key=lambda row: (row.verified is not None, row.state is PointState.OK)):
            theirs[self._identity(row)] = row
        return [(row, theirs[identity]) for row in mine.values() if (identity := self._identity(row)) in theirs]

    def _rows(self, connections: _Connections, name: str) -> Mapping[Sid, PointEntryRow]:
        listed: Iterable[PointEntryRow] = stored_points(self._catalog, name, connections.ask(name)).rows
        return {row.sid: row for row in listed}

    def _identity(self, row: PointEntryRow) -> Origin:
        return row.origin or Origin(self._catalog.repositories.get(row.repository).repository_id, row.sid)

    def _check(self) -> None:
        if self._stopped():
            raise Cancelled(reason="what is left stays where it is; the next evacuation goes on")

    def _note(self, text: str, level: str = "info", step: Step = Step.COMMIT) -> None:
        self._recorder.note(text, level, step if level == "info" else None)


def _as_good(original: PointEntryRow, copy: PointEntryRow) -> bool:
    """Whether the copy can take the place of the original: it was read whole, or it is no worse by what is known."""
    return copy.verified is not None and (copy.state is PointState.OK or original.state is PointState.SUSPECT)
