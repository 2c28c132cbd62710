"""Groups of repositories: names, members, and who uses them."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import AlreadyExists, ConfigInvalid, Locked, NotFound
from holdfast_agent.model.ids import Sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.values import (
    CopySettings,
    JobSpec,
    PlacingPolicy,
    PointEntryRow,
    PointScope,
    RepositoryEntry,
    RepositoryGroup,
)

pytestmark = pytest.mark.both_databases
POOL = RepositoryGroup(name="pool", members=("main", "second"), policy=PlacingPolicy.CAPACITY, free_floor_bytes=7)


@pytest.fixture
def pooled(stocked: Catalog) -> Catalog:
    """With the repositories "second" and "far" besides, and a group of "main" and "second"."""
    for name in ("second", "far"):
        entry = RepositoryEntry(name=name, agent="a", path=f"/{name}", repository_id=name * 4, encrypted=False)
        stocked.repositories.add(entry)
    stocked.groups.add(POOL)
    return stocked


def test_a_group_is_kept_and_means_its_members(pooled: Catalog) -> None:
    assert pooled.groups.get("pool") == POOL
    assert [entry.name for entry in pooled.groups.behind("pool")] == ["main", "second"]
    assert [entry.name for entry in pooled.groups.behind("far")] == ["far"]
    assert (pooled.groups.named("pool"), pooled.groups.named("far")) == (POOL, None)
    with pytest.raises(NotFound, match="'pool'"):
        pooled.groups.behind("poll")
    smaller = msgspec.structs.replace(POOL, members=("far", "main"), policy=PlacingPolicy.LOCALITY)
    pooled.groups.update(smaller)
    assert pooled.groups.list() == (smaller,)
    assert pooled.repositories.get("second").member_of is None
    assert pooled.repositories.set_sealed("main", True).sealed
    assert pooled.groups.get("pool") == smaller, "to be sealed is no end of a membership"


def test_names_members_and_users_are_looked_after(pooled: Catalog) -> None:
    for name in ("pool", "far"):
        with pytest.raises(AlreadyExists):
            pooled.groups.add(RepositoryGroup(name=name, members=("far",)))
    with pytest.raises(AlreadyExists):
        pooled.repositories.add(msgspec.structs.replace(pooled.repositories.get("far"), name="pool"))
    for members, error in ((("main",), InUse), (("fra",), NotFound), ((), ConfigInvalid)):
        with pytest.raises(error):
            pooled.groups.add(RepositoryGroup(name="other", members=members))
    assert pooled.groups.list() == (POOL,)
    pooled.jobs.update(msgspec.structs.replace(pooled.jobs.get("web"), repository="pool"))
    with pytest.raises(InUse, match="job web"):
        pooled.groups.remove("pool")
    with pytest.raises(InUse, match="group pool"):
        pooled.repositories.remove("second")
    pooled.jobs.remove("web")
    pooled.groups.remove("pool")
    pooled.repositories.remove("second")


def test_copies_into_and_out_of_a_group(pooled: Catalog) -> None:
    """Out of it any member's points count, whichever was first; into it one session at a time copies."""
    pooled.jobs.add(JobSpec(name="out", repository="far", copy=CopySettings(origin="pool")))
    pooled.jobs.add(JobSpec(name="in", repository="pool", copy=CopySettings(origin="far")))
    for origin, target in (("pool", "main"), ("second", "pool"), ("main", "second")):
        with pytest.raises(ConfigInvalid, match="of one group"):
            pooled.jobs.add(JobSpec(name="round", repository=target, copy=CopySettings(origin=origin)))
    for number, repository in ((1, "second"), (2, "far"), (3, "main"), (4, "second")):
        fields = {"server": "lab", "job": "web", "vm_id": "1", "vm_name": "web", "created": 5.0, "size_bytes": 1}
        pooled.points.add(PointEntryRow(sid=Sid(f"{number:032x}"), repository=repository, **fields))
    facts = {each.name: each.arrivals for each in pooled.runs.look()}
    newest = [pooled.points.newest_arrival(source, 0, PointScope()) for source in ("pool", "main", "far")]
    assert (newest, facts["out"], facts["in"]) == ([4, 3, 2], 4, 2)
    begun = pooled.sessions.begin_job("in")
    with pytest.raises(Locked, match=str(begun.id)):
        pooled.sessions.begin_copy("second", {})
    pooled.sessions.begin_copy("far", {})
