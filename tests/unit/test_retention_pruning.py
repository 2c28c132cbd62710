"""Pruning and rescanning: the catalogue against a real repository, asked in this process instead of over a channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import UndoWindowOver
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, Sid, new_sid
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.writer import store_blob
from holdfast_agent.sealing.keys import MasterKey, RepositoryKeys
from holdfast_agent.sealing.records import RecordKind, seal_record
from holdfast_agent.sealing.roots import seal_point
from holdfast_agent.service.repositories import told_points
from holdfast_agent.wire import messages as m
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import JobSpec, PointState, RepositoryEntry
from holdfast_manager.enrolment.points import give_back, rescan, stored_points
from holdfast_manager.enrolment.pruning import JudgedVm, Pruned, Scope, judge, prune
from holdfast_manager.reports.retention_text import policy_text, pruning_text
from holdfast_manager.retention.policy import RetentionPolicy
from lab import repositories as lab

DAY_S = 86400.0
ONE = RetentionPolicy(days=0, count=1, minimum=1, undo_window_s=DAY_S)


class InProcess:
    """Answers as a repository's agent does, two points to a page."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.asked: list[m.Request] = []

    def __call__(self, request: m.Request, kind: type[Any], /) -> Any:
        self.asked.append(request)
        reply = self._answer(request)
        assert isinstance(reply, kind)
        return reply

    def _answer(self, request: m.Request) -> m.Reply:
        match request:
            case m.ListPoints():
                rest = [entry for entry in self.repository.points() if entry.sid > request.after]
                return told_points(self.repository, rest[:2], more=len(rest) > 2)
            case m.TombstonePoints():
                return m.PointsPruned(outcomes=tuple(self._prune(point, request) for point in request.points))
            case m.UndoTombstone():
                self.repository.undo_tombstone(request.sid)
                return told_points(self.repository, [self.repository.point(request.sid)], more=False)
        raise AssertionError(request)

    def _prune(self, point: m.PointToPrune, request: m.TombstonePoints) -> m.PruneOutcome:
        self.repository.tombstone(point.sid, request.window_s, point.reason)
        stone = self.repository.tombstones.of(point.sid)
        assert stone is not None
        return m.PruneOutcome(sid=point.sid, undo_until=stone.not_before)


@pytest.fixture
def repository(tmp_path: Path, clock: Any) -> Iterator[Repository]:
    lab.create(tmp_path / "repository")
    opened = Repository.open(tmp_path / "repository", tmp_path / "cache", clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def ask(repository: Repository) -> InProcess:
    return InProcess(repository)


@pytest.fixture
def known(stocked: Catalog) -> Catalog:
    """The catalogue knows the repository as `vault`, and the job `web` keeps one point."""
    entry = RepositoryEntry(name="vault", agent="a", path="/v", repository_id=lab.REPOSITORY_ID, encrypted=True)
    stocked.repositories.add(entry, b"m" * 32)
    stocked.jobs.update(JobSpec(name="web", server="lab", include=("web*",), repository="vault", retention=ONE))
    return stocked


def commit(repository: Repository, created: float, vm: str = "v1", job: str = "web", keys: object = lab.KEYS) -> Sid:
    sid = new_sid()
    lock = repository.begin_session(sid)
    blob_keys = lab.KEYS.blob_keys()
    blob = blob_keys.block_id(b"a configuration")
    record = b"".join(seal_record(RecordKind.BLOB, b"a configuration", blob, blob_keys))
    packs = store_blob(repository, sid, 1, record)
    point = lab.point_of(sid, Geometry(0), HOLE, packs, blob.hex())
    point = msgspec.structs.replace(point, created=created, vm_id=vm, vm_name=f"name of {vm}", job=job, server="lab")
    assert isinstance(keys, RepositoryKeys)
    repository.commit(seal_point(point, keys), packs)
    lock.close()
    return sid


def judged(catalog: Catalog, ask: InProcess, now: float, scope: Scope | None = None) -> tuple[JudgedVm, ...]:
    return judge(catalog, {"vault": ask}, scope or Scope(), now)


def doomed(vms: tuple[JudgedVm, ...]) -> list[Sid]:
    return [decision.sid for vm in vms for decision in vm.doomed]


def test_the_catalogue_follows_what_the_repository_did(
    known: Catalog, repository: Repository, ask: InProcess, clock: Any
) -> None:
    sids = [commit(repository, clock.now - (5 - day) * DAY_S) for day in range(5)]
    rescan(known, "vault", ask, clock.now)
    vms = judged(known, ask, clock.now)
    assert doomed(vms) == sids[:4]
    done = prune(known, "vault", vms, ask, clock.now)
    assert (done.sids, done.undo_until, done.refused) == (tuple(sids[:4]), clock.now + DAY_S, ())
    assert [row.sid for row in known.points.list()] == sids[4:]
    assert {row.sid for row in known.points.list(pruned=True)} == set(sids[:4])
    assert doomed(judged(known, ask, clock.now)) == []
    clock.pass_time(40 * DAY_S)
    prune(known, "vault", judged(known, ask, clock.now), ask, clock.now)
    assert known.points.list(pruned=True) == (), "long over, nobody will give them back"
    text = pruning_text(vms, [done], dry_run=False)
    assert text.count("pruned") == 4
    assert "Pruned 4 points of 5; `holdfast point undo-prune` gives them back until" in text
    assert "Would prune 4 points of 5" in pruning_text(vms, [Pruned()], dry_run=True)


def test_a_point_that_only_the_catalogue_believes_in_replaces_no_other(
    known: Catalog, repository: Repository, ask: InProcess, clock: Any
) -> None:
    """The newest point was lost with a disk; the catalogue has not heard of it."""
    sid = commit(repository, clock.now - DAY_S)
    rescan(known, "vault", ask, clock.now)
    ghost = msgspec.structs.replace(known.points.get(sid), sid=new_sid(), created=clock.now)
    known.points.add(ghost)
    assert doomed(judged(known, ask, clock.now)) == []


def test_a_forged_point_replaces_no_other(known: Catalog, repository: Repository, ask: InProcess, clock: Any) -> None:
    sid = commit(repository, clock.now - DAY_S)
    forged = commit(repository, clock.now, keys=RepositoryKeys.derive(MasterKey(b"x" * 32), lab.REPOSITORY_ID))
    assert stored_points(known, "vault", ask).refused == (forged,)
    (vm,) = judged(known, ask, clock.now)
    assert [decision.sid for decision in vm.decisions] == [sid]
    assert vm.doomed == ()


def test_points_of_a_job_that_is_gone_stay(known: Catalog, repository: Repository, ask: InProcess, clock: Any) -> None:
    for _ in range(3):
        commit(repository, clock.now, job="gone")
    vms = judged(known, ask, clock.now)
    assert [vm.policy for vm in vms] == [None]
    assert doomed(vms) == []
    assert "the job is gone" in pruning_text(vms, [], dry_run=True)


def test_each_vm_of_each_job_is_judged_by_itself(
    known: Catalog, repository: Repository, ask: InProcess, clock: Any
) -> None:
    known.jobs.add(JobSpec(name="two", server="lab", include=("*",), repository="vault", retention=ONE))
    made = {
        (vm, job): [commit(repository, clock.now - age, vm, job) for age in (2.0, 1.0)]
        for vm in ("v1", "v2")
        for job in ("web", "two")
    }
    assert set(doomed(judged(known, ask, clock.now))) == {sids[0] for sids in made.values()}
    assert doomed(judged(known, ask, clock.now, Scope(job="web", vm_name="name of v2"))) == [made["v2", "web"][0]]
    assert judged(known, ask, clock.now, Scope(vm_name="nobody")) == ()


def test_what_the_catalogue_knows_and_what_the_repository_says_both_count(
    known: Catalog, repository: Repository, ask: InProcess, clock: Any
) -> None:
    verified, suspect, held, plain, newest = (commit(repository, clock.now - age) for age in (9.0, 8.0, 7.0, 6.0, 5.0))
    rescan(known, "vault", ask, clock.now)
    known.points.set_verified(verified, clock.now)
    known.points.set_state(suspect, PointState.SUSPECT)
    repository.retain(held, hold=True)
    (vm,) = judged(known, ask, clock.now)
    reasons = {decision.sid: decision.reasons for decision in vm.decisions}
    assert reasons == {
        verified: ("last verified",),
        suspect: ("suspect, and too old",),
        held: ("protected",),
        plain: ("no rule keeps it",),
        newest: ("minimum", "count"),
    }


def test_a_rescan_makes_the_catalogue_anew(known: Catalog, repository: Repository, ask: InProcess, clock: Any) -> None:
    first, second, third = (commit(repository, clock.now - age) for age in (3.0, 2.0, 1.0))
    repository.retain(first, until=clock.now + DAY_S)
    assert len(rescan(known, "vault", ask, clock.now).rows) == 3
    known.points.set_verified(second, 7.0)
    prune(known, "vault", judged(known, ask, clock.now), ask, clock.now)
    assert [row.sid for row in known.points.list(pruned=True)] == []
    known.points.set_verified(third, 8.0)
    assert prune(known, "vault", judged(known, ask, clock.now), ask, clock.now).sids == (second,)
    rescan(known, "vault", ask, clock.now)
    assert [row.sid for row in known.points.list()] == [third, first]
    assert [(row.sid, row.verified) for row in known.points.list(pruned=True)] == [(second, 7.0)]
    assert known.points.get(first).retained_until == clock.now + DAY_S
    known.points.replace_all("vault", [], known.points.last_arrival("vault"))
    assert [row.sid for row in rescan(known, "vault", ask, clock.now).rows] == sorted([first, third])
    assert known.points.get(third).verified is None, "what only the catalogue knew is gone"


def test_giving_back(known: Catalog, repository: Repository, ask: InProcess, clock: Any) -> None:
    old, _ = commit(repository, clock.now - 2.0), commit(repository, clock.now - 1.0)
    rescan(known, "vault", ask, clock.now)
    prune(known, "vault", judged(known, ask, clock.now), ask, clock.now)
    assert give_back(known, "vault", old, ask).undo_until is None
    assert known.points.get(old)
    prune(known, "vault", judged(known, ask, clock.now), ask, clock.now)
    clock.pass_time(2 * DAY_S)
    repository.retire()
    with pytest.raises(UndoWindowOver):
        give_back(known, "vault", old, ask)
    assert known.points.list(pruned=True) == ()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (RetentionPolicy(), "7 days; at least 3 points; UTC; undo within 3 days"),
        (RetentionPolicy(days=0), "everything is kept"),
        (
            RetentionPolicy(days=1, weekly=4, yearly=1, minimum=1, time_zone="Europe/Berlin", undo_window_s=90.0,
                            immutable_s=14 * DAY_S),
            "1 day, 4 weeks, 1 year; at least 1 point; Europe/Berlin; undo within 90.0 s; immutable for 14 days",
        ),
    ],
)  # fmt: skip
def test_a_policy_in_words(policy: RetentionPolicy, text: str) -> None:
    assert policy_text(policy) == text
