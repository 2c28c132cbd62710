"""Where the points that a session makes go: into one repository, or each VM's into a member of a group."""

from __future__ import annotations

import threading
import time

import msgspec

from holdfast_agent.errors import HoldfastError
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.messages import OpenRepository, RepositoryFacts
from holdfast_manager.catalog.errors import NoMemberTakes, RepositorySealed
from holdfast_manager.catalog.values import PointEntryRow, PointState, RepositoryEntry
from holdfast_manager.scheduler.members import Member, VmData, choose
from holdfast_manager.steps import Step

from .keys import session_keys
from .tasks import Context

VmKey = tuple[str, str]
"""(server, the hypervisor's id of the VM)."""
_FRESH_S = 10.0
"""For so long what a member said of its free space is believed; what is promised to VMs since then is taken off."""


class Home(msgspec.Struct, frozen=True):
    """A repository that points go to. ``context``: the session's, as if this were its only repository."""

    context: Context
    keys: RepositoryKeys

    @property
    def repository(self) -> RepositoryEntry:
        return self.context.repository


class Homes:
    """Of one session. Thread-safe."""

    def __init__(self, context: Context, target: str, leave_out: str = "") -> None:
        """``target``: a repository or a group. ``leave_out``: a member that gets nothing, for it is evacuated."""
        self._context = context
        self._target = target
        self._leave_out = leave_out
        self._group = context.catalog.groups.named(target)
        self._lock = threading.Lock()
        self._homes: dict[str, Home] = {}
        self._members: tuple[Member, ...] = ()
        self._looked = float("-inf")
        self._promised: dict[VmKey, tuple[str, int]] = {}

    def open(self) -> tuple[Home, ...]:
        """All that answer, sealed ones too: they can be read. Called at the start, before anything is begun.

        Raises what the agent raises, or :class:`RepositorySealed`, where there is one repository only.
        """
        if self._group is None:
            (entry,) = self._context.catalog.groups.behind(self._target)
            if entry.sealed:
                raise RepositorySealed(repository=entry.name)
            return (self._opened(entry)[0],)
        with self._lock:
            self._look()
            return tuple(self._homes.values())

    @property
    def are_several(self) -> bool:
        """Whether a point that cannot go to one may go to another."""
        return self._group is not None

    def names(self) -> tuple[str, ...]:
        """The repositories in question, whether they answer or not."""
        behind = self._context.catalog.groups.behind(self._target)
        return tuple(entry.name for entry in behind if entry.name != self._leave_out)

    def choose(self, vm: VmKey, vm_name: str, size_bytes: int) -> Home:
        """Where the next point of a VM goes; ``size_bytes``: what it may take where none of its points are.

        The session's log tells why. Raises :class:`NoMemberTakes` (retryable) and what :meth:`open` raises.
        """
        if self._group is None:
            return next(iter(self._homes.values()), None) or self.open()[0]
        with self._lock:
            self._promised.pop(vm, None)
            if time.monotonic() > self._looked + _FRESH_S:
                self._look()
            data = self._data(vm, size_bytes)
            found = choose(self._group.policy, self._group.free_floor_bytes, self._members, self._taken(), data)
            if found.member is None:
                raise NoMemberTakes(group=self._target, vm=vm_name, reasons=found.reason)
            self._promised[vm] = found.member, found.takes_bytes
            home = self._homes[found.member]
        self._context.recorder.note(f"{vm_name} goes to {found.member}: {found.reason}", step=Step.SCHEDULE)
        return home

    def settle(self, vm: VmKey) -> None:
        """The point of a VM is there, or given up: ask the members anew before the next VM."""
        with self._lock:
            self._promised.pop(vm, None)
            self._looked = float("-inf")

    def _look(self) -> None:
        catalog = self._context.catalog
        away = {agent.name for agent in catalog.agents.list() if not agent.enabled}
        self._members = tuple(
            self._member(entry, away) for entry in catalog.groups.behind(self._target) if entry.name != self._leave_out
        )
        self._looked = time.monotonic()

    def _member(self, entry: RepositoryEntry, away: set[str]) -> Member:
        try:
            _, free = self._opened(entry)
        except HoldfastError as error:
            self._homes.pop(entry.name, None)
            return Member(name=entry.name, obstacle=f"cannot be used now ({error.text})")
        obstacle = "is sealed" if entry.sealed else "is on a disabled agent" if entry.agent in away else ""
        return Member(name=entry.name, free_bytes=free, obstacle=obstacle)

    def _opened(self, entry: RepositoryEntry) -> tuple[Home, int]:
        facts = self._context.pool.ask(entry.agent, OpenRepository(repository=entry.path), RepositoryFacts)
        home = self._homes.get(entry.name)
        if home is None:
            context = msgspec.structs.replace(self._context, repository=entry)
            home = self._homes[entry.name] = Home(context, session_keys(context))
        return home, facts.free_bytes

    def _taken(self) -> dict[str, int]:
        taken: dict[str, int] = {}
        for member, size in self._promised.values():
            taken[member] = taken.get(member, 0) + size
        return taken

    def _data(self, vm: VmKey, size_bytes: int) -> VmData:
        points = self._context.catalog.points
        histories = {each.name: points.history(each.name, *vm) for each in self._members}
        good = {name: _newest(rows) for name, rows in histories.items()}
        newest = {name: row for name, row in good.items() if row is not None}
        stored = [row.stored_bytes for rows in histories.values() for row in rows]
        last = max(newest.values(), key=lambda row: row.created, default=None)
        return VmData(
            whole_bytes=max(stored, default=size_bytes) or size_bytes,
            grows_bytes=last.stored_bytes if last is not None else size_bytes,
            newest={name: row.created for name, row in newest.items()},
        )


def _newest(rows: tuple[PointEntryRow, ...]) -> PointEntryRow | None:
    return next((row for row in rows if row.state is PointState.OK and row.undo_until is None), None)
