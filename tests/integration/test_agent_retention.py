"""Pruning, protecting and counting over the real control channel, and an agent whose host's clock was turned."""

from __future__ import annotations

import json
import queue
import time
from pathlib import Path

import pytest

from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import HoldfastError, LeaseUnknown, PointNotFound, UndoWindowOver, UsageError
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, Sid, new_sid
from holdfast_agent.repository.repository import Repository
from holdfast_agent.sealing.records import RecordKind, seal_record
from holdfast_agent.sealing.roots import seal_point
from holdfast_agent.sealing.slots import public_slot
from holdfast_agent.wire import messages as m
from lab.agents import RunningAgent, start_agent
from lab.one_agent import MANAGER, WAIT_S
from lab.repositories import KEYS, REPOSITORY_ID, point_of

DAY_S = 86400.0


@pytest.fixture
def repository(agent: RunningAgent, client: ControlClient) -> str:
    path = str(agent.roots["repository"] / "main")
    slot = m.KeySlot("first", public_slot(REPOSITORY_ID))
    client.call(m.CreateRepository(repository=path, repository_id=REPOSITORY_ID, slots=(slot,)))
    return path


def back_up(client: ControlClient, repository: str, retain_until: float = 0.0) -> Sid:
    """A point of an empty disk and a configuration of its own."""
    sid = new_sid()
    client.call(m.BeginSession(lease="l", repository=repository, sid=sid))
    keys = KEYS.blob_keys()
    plain = f"configuration of {sid}".encode()
    blob = keys.block_id(plain)
    record = b"".join(seal_record(RecordKind.BLOB, plain, blob, keys))
    stored = client.call(m.StoreBlob(lease="l", repository=repository, sid=sid, mover=0, record=record))
    assert isinstance(stored, m.BlobStored)
    entry = seal_point(point_of(sid, Geometry(0), HOLE, list(stored.packs), blob.hex()), KEYS)
    client.call(
        m.CommitSession(
            lease="l", repository=repository, entry=entry, packs=stored.packs, retain_until=retain_until
        )
    )  # fmt: skip
    return sid


def prune(client: ControlClient, repository: str, *sids: Sid, window_s: float = 60.0) -> list[str]:
    """What became of each: "" or the code of the error."""
    points = tuple(m.PointToPrune(sid=sid, reason="a test") for sid in sids)
    reply = client.call(m.TombstonePoints(repository=repository, points=points, window_s=window_s))
    assert isinstance(reply, m.PointsPruned)
    assert [outcome.sid for outcome in reply.outcomes] == list(sids)
    return [outcome.error.code if outcome.error else "" for outcome in reply.outcomes]


def listed(client: ControlClient, repository: str) -> dict[Sid, m.RetainedPoint | None]:
    reply = client.call(m.ListPoints(repository=repository))
    assert isinstance(reply, m.PointList)
    retained = {each.sid: each for each in reply.retained}
    assert retained.keys() <= {entry.sid for entry in reply.points}
    return {entry.sid: retained.get(entry.sid) for entry in reply.points}


def test_what_was_pruned_is_listed_when_it_is_asked_for(client: ControlClient, repository: str) -> None:
    """A copy that was pruned is known for ever, so that nobody makes it again."""
    kept, pruned = back_up(client, repository), back_up(client, repository)
    back_out = m.AbortSession(lease="l", repository=repository, sid=new_sid())
    client.call(m.BeginSession(lease="l", repository=repository, sid=back_out.sid))
    client.call(back_out)  # FENCED is no point, hidden or not
    assert prune(client, repository, pruned, window_s=0.0) == [""]

    def listed(hidden: bool) -> list[Sid]:
        reply = client.call(m.ListPoints(repository=repository, hidden=hidden))
        assert isinstance(reply, m.PointList)
        return [entry.sid for entry in reply.points]

    assert (listed(hidden=False), listed(hidden=True)) == ([kept], [pruned])


def test_one_point_that_may_not_go_does_not_spoil_the_others(client: ControlClient, repository: str) -> None:
    plain, held, retained = (back_up(client, repository) for _ in range(3))
    unknown = new_sid()
    client.call(m.RetainPoint(repository=repository, sid=held, hold=True))
    client.call(m.RetainPoint(repository=repository, sid=retained, until=time.time() + DAY_S))
    codes = prune(client, repository, held, plain, retained, unknown, plain)
    assert codes == ["point_held", "", "point_retained", "point_not_found", ""]
    assert set(listed(client, repository)) >= {held, retained}
    assert plain not in listed(client, repository)
    with pytest.raises(PointNotFound):
        client.call(m.ReadPoint(repository=repository, sid=plain))


def test_undo_until_a_collector_has_it(client: ControlClient, repository: str, tmp_path: Path) -> None:
    sid = back_up(client, repository)
    assert prune(client, repository, sid, window_s=0) == [""]
    back = client.call(m.UndoTombstone(repository=repository, sid=sid))
    assert isinstance(back, m.PointList)
    assert [entry.sid for entry in back.points] == [sid]
    assert client.call(m.UndoTombstone(repository=repository, sid=sid)) == back, "asked twice"
    prune(client, repository, sid, window_s=0)
    opened = Repository.open(Path(repository), tmp_path / "cache")
    assert opened.retire() == [sid]
    opened.close()
    with pytest.raises(UndoWindowOver):
        client.call(m.UndoTombstone(repository=repository, sid=sid))
    with pytest.raises(PointNotFound):
        client.call(m.UndoTombstone(repository=repository, sid=new_sid()))


def test_lists_tell_what_protects_points(client: ControlClient, repository: str) -> None:
    plain, held = back_up(client, repository), back_up(client, repository)
    client.call(m.RetainPoint(repository=repository, sid=held, hold=True))
    reply = client.call(m.RetainPoint(repository=repository, sid=held, until=5.0))
    assert reply == m.PointRetention(retained=m.RetainedPoint(sid=held, until=5.0, hold=True))
    assert listed(client, repository) == {plain: None, held: m.RetainedPoint(sid=held, until=5.0, hold=True)}
    client.call(m.RetainPoint(repository=repository, sid=held, hold=False))
    assert prune(client, repository, held) == [""]


def test_a_point_is_immutable_from_its_first_moment(client: ControlClient, repository: str) -> None:
    until = time.time() + DAY_S
    sid = back_up(client, repository, retain_until=until)
    assert listed(client, repository) == {sid: m.RetainedPoint(sid=sid, until=until)}
    assert prune(client, repository, sid) == ["point_retained"]


@pytest.mark.parametrize(
    "request_",
    [
        m.TombstonePoints(repository="?", points=(), window_s=-1.0),
        m.TombstonePoints(repository="?", points=(), window_s=float("nan")),
        m.TombstonePoints(repository="?", points=(), window_s=1e12),
        m.TombstonePoints(repository="?", points=(m.PointToPrune(sid=new_sid()),) * 1001, window_s=0),
        m.TombstonePoints(repository="?", points=(m.PointToPrune(sid=new_sid(), reason="x" * 501),), window_s=0),
        m.RetainPoint(repository="?", sid=new_sid(), until=float("inf")),
        m.RetainPoint(repository="?", sid=new_sid(), until=-1.0),
        m.RetainPoint(repository="?", sid=new_sid(), until=1e15),
        m.RetainPoint(repository="?", sid=Sid("../../x"), hold=True),
        m.UndoTombstone(repository="?", sid=Sid("../../x")),
    ],
)
def test_what_makes_no_sense_is_refused(
    client: ControlClient, repository: str, request_: m.TombstonePoints | m.RetainPoint | m.UndoTombstone
) -> None:
    fields = {name: getattr(request_, name) for name in request_.__struct_fields__}
    with pytest.raises(UsageError):
        client.call(type(request_)(**fields | {"repository": repository}))


def test_a_clock_that_was_turned_forward_frees_nothing(tmp_path: Path) -> None:
    """The agent has seen the time before the clock was turned by a month, and the host has not been restarted since."""
    real = time.time() - 30 * DAY_S
    with start_agent(tmp_path, authorised=[MANAGER.public]) as first:
        clock = first.settings.clock_file
        with first.client(MANAGER) as client:
            client.call(m.RenewLease(lease="l", ttl_s=60))
            path = str(first.roots["repository"] / "main")
            slot = m.KeySlot("first", public_slot(REPOSITORY_ID))
            client.call(m.CreateRepository(repository=path, repository_id=REPOSITORY_ID, slots=(slot,)))
            sid = back_up(client, path, retain_until=real + 7 * DAY_S)
    seen = json.loads(clock.read_text())
    clock.write_text(json.dumps(seen | {"latest": real, "uptime": time.clock_gettime(time.CLOCK_BOOTTIME)}))
    with start_agent(tmp_path, authorised=[MANAGER.public]) as turned, turned.client(MANAGER) as client:
        assert prune(client, path, sid) == ["point_retained"]
    clock.unlink()  # an operator looked at the host's clock and accepts it
    with start_agent(tmp_path, authorised=[MANAGER.public]) as accepted, accepted.client(MANAGER) as client:
        assert prune(client, path, sid) == [""]


def test_the_agent_keeps_its_clock(agent: RunningAgent, client: ControlClient, repository: str) -> None:
    back_up(client, repository)
    seen = json.loads(agent.settings.clock_file.read_text())
    assert abs(seen["latest"] - time.time()) < WAIT_S


def test_statistics_come_by_a_push(
    client: ControlClient, repository: str, pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    sids = [back_up(client, repository) for _ in range(2)]
    request = m.RepositoryStatistics(lease="l", ticket="t", repository=repository, points=(sids[1],))
    assert isinstance(client.call(request), m.Done)
    ended = pushes.get(timeout=WAIT_S)
    assert isinstance(ended, m.StatisticsEnded)
    assert (ended.ticket, ended.error) == ("t", None)
    assert [point.sid for point in ended.points] == [sids[1]]
    assert ended.vms[0].points == 2
    assert ended.total.metadata_bytes == 2 * ended.points[0].sizes.metadata_bytes > 0
    assert ended.packs_bytes > ended.total.metadata_bytes


def test_statistics_that_fail_say_why(
    client: ControlClient, repository: str, pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    lost = m.RepositoryStatistics(lease="l", ticket="t", repository=repository, points=(new_sid(),))
    client.call(lost)
    ended = pushes.get(timeout=WAIT_S)
    assert isinstance(ended, m.StatisticsEnded)
    assert ended.error is not None
    assert ended.error.code == PointNotFound.code
    for fields, error in (({"lease": "x"}, LeaseUnknown), ({"ticket": ""}, UsageError)):
        with pytest.raises(error):
            client.call(m.RepositoryStatistics(**({"lease": "l", "ticket": "u", "repository": repository} | fields)))
    with pytest.raises(HoldfastError, match="outside the directories"):
        client.call(m.RepositoryStatistics(lease="l", ticket="u", repository="/etc"))
