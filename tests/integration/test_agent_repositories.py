"""Repository messages over the real control channel: sessions belong to leases, points are written once."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import (
    AlreadyExists,
    Cancelled,
    DiskDenied,
    DiskNotFound,
    HoldfastError,
    LeaseUnknown,
    Locked,
    ObjectMissing,
    PointNotFound,
    RepositoryDenied,
    RepositoryExists,
    RepositoryNotFound,
    SessionFenced,
    SessionUnknown,
    UsageError,
)
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, Sid, new_sid
from holdfast_agent.model.points import PointEntry
from holdfast_agent.repository.repository import Repository
from holdfast_agent.sealing.records import RecordKind, open_record, seal_record
from holdfast_agent.sealing.roots import seal_point
from holdfast_agent.sealing.slots import public_slot
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.specs import PackRef
from lab.agents import RunningAgent, start_agent
from lab.one_agent import MANAGER, WAIT_S
from lab.repositories import KEYS, REPOSITORY_ID, point_of

SLOT = m.KeySlot("first", public_slot(REPOSITORY_ID))


@pytest.fixture
def repository(agent: RunningAgent, client: ControlClient) -> str:
    path = str(agent.roots["repository"] / "main")
    facts = client.call(m.CreateRepository(repository=path, repository_id=REPOSITORY_ID, slots=(SLOT,)))
    assert isinstance(facts, m.RepositoryFacts)
    assert (facts.repository_id, facts.slots) == (REPOSITORY_ID, (SLOT,))
    return path


def _blob(text: str) -> tuple[str, bytes]:
    keys = KEYS.blob_keys()
    plain = text.encode()
    blob_id = keys.block_id(plain)
    return blob_id.hex(), b"".join(seal_record(RecordKind.BLOB, plain, blob_id, keys))


def _backup(client: ControlClient, repository: str, sid: Sid | None = None) -> tuple[PointEntry, tuple[PackRef, ...]]:
    """An empty disk and a configuration: all of a session but the movers. Not committed yet."""
    sid = sid or new_sid()
    client.call(m.BeginSession(lease="l", repository=repository, sid=sid))
    blob, record = _blob(f"configuration of {sid}")
    stored = client.call(m.StoreBlob(lease="l", repository=repository, sid=sid, mover=0, record=record))
    assert isinstance(stored, m.BlobStored)
    point = point_of(sid, Geometry(0), HOLE, list(stored.packs), blob)
    return seal_point(point, KEYS), stored.packs


def _commit(client: ControlClient, repository: str, entry: PointEntry, packs: tuple[PackRef, ...]) -> m.Reply:
    return client.call(m.CommitSession(lease="l", repository=repository, entry=entry, packs=packs))


def _points(client: ControlClient, repository: str, after: str = "", limit: int = 500) -> m.PointList:
    reply = client.call(m.ListPoints(repository=repository, after=after, limit=limit))
    assert isinstance(reply, m.PointList)
    return reply


def test_a_session_from_begin_to_commit(client: ControlClient, repository: str) -> None:
    entry, packs = _backup(client, repository)
    assert _points(client, repository).points == ()
    assert isinstance(_commit(client, repository, entry, packs), m.Done)
    assert isinstance(_commit(client, repository, entry, packs), m.Done)  # asked twice
    assert _points(client, repository).points == (entry,)
    assert client.call(m.ReadPoint(repository=repository, sid=entry.sid)) == m.PointList(points=(entry,), more=False)
    blob, _ = _blob(f"configuration of {entry.sid}")
    stored = client.call(m.ReadBlob(repository=repository, blob=blob))
    assert isinstance(stored, m.BlobRecord)
    assert open_record(stored.record, KEYS.blob_keys()) == f"configuration of {entry.sid}".encode()
    with pytest.raises(AlreadyExists):
        client.call(m.AbortSession(lease="l", repository=repository, sid=entry.sid))
    with pytest.raises(AlreadyExists):
        client.call(m.BeginSession(lease="l", repository=repository, sid=entry.sid))


def test_points_come_in_pages(client: ControlClient, repository: str) -> None:
    entries = sorted((_backup(client, repository) for _ in range(5)), key=lambda made: made[0].sid)
    for entry, packs in entries:
        _commit(client, repository, entry, packs)
    found: list[PointEntry] = []
    page = _points(client, repository, limit=2)
    while page.more:
        assert len(page.points) == 2
        found += page.points
        page = _points(client, repository, found[-1].sid, limit=2)
    assert [*found, *page.points] == [entry for entry, _ in entries]


def test_an_aborted_session_cannot_commit(client: ControlClient, repository: str) -> None:
    entry, packs = _backup(client, repository)
    for _ in range(2):
        assert isinstance(client.call(m.AbortSession(lease="l", repository=repository, sid=entry.sid)), m.Done)
    with pytest.raises(SessionUnknown):
        _commit(client, repository, entry, packs)
    with pytest.raises(SessionFenced):
        client.call(m.BeginSession(lease="l", repository=repository, sid=entry.sid))


def test_a_commit_that_fails_can_be_tried_again(client: ControlClient, repository: str) -> None:
    entry, packs = _backup(client, repository)
    with pytest.raises(UsageError):
        _commit(client, repository, entry, ())
    missing = seal_point(point_of(entry.sid, Geometry(0), HOLE, list(packs), "ab" * 32), KEYS)
    with pytest.raises(ObjectMissing):
        _commit(client, repository, missing, packs)
    assert isinstance(_commit(client, repository, entry, packs), m.Done)


def test_closing_a_lease_fences_its_sessions(agent: RunningAgent, client: ControlClient, repository: str) -> None:
    entry, packs = _backup(client, repository)
    client.call(m.CloseLease(lease="l"))
    client.call(m.RenewLease(lease="l", ttl_s=60))
    with pytest.raises(SessionUnknown):
        _commit(client, repository, entry, packs)
    with pytest.raises(SessionFenced):
        client.call(m.BeginSession(lease="l", repository=repository, sid=entry.sid))


def check_fenced(repository: str, cache: Path, entry: PointEntry, packs: tuple[PackRef, ...]) -> None:
    """Nobody can commit it any more."""
    opened = Repository.open(Path(repository), cache)
    try:
        with pytest.raises(SessionFenced):
            opened.commit(entry, packs)
    finally:
        opened.close()


def test_stopping_the_agent_fences_its_sessions(
    agent: RunningAgent, client: ControlClient, repository: str, tmp_path: Path
) -> None:
    entry, packs = _backup(client, repository)
    assert agent.stop() == 0
    assert not list((Path(repository) / "sessions").iterdir())
    check_fenced(repository, tmp_path / "cache", entry, packs)


def test_opening_clears_what_a_killed_agent_left(agent: RunningAgent, repository: str, tmp_path: Path) -> None:
    with agent.client(MANAGER) as client:
        client.call(m.RenewLease(lease="l", ttl_s=60))
        _backup(client, repository)
        agent.kill()
    assert len(list((Path(repository) / "sessions").iterdir())) == 1
    with start_agent(tmp_path) as again, again.client(MANAGER) as client:
        assert isinstance(client.call(m.OpenRepository(repository=repository)), m.RepositoryFacts)
        assert not list((Path(repository) / "sessions").iterdir())


def test_what_a_killed_agent_left_open_is_fenced_by_who_asks_for_it(
    agent: RunningAgent, repository: str, tmp_path: Path
) -> None:
    with agent.client(MANAGER) as client:
        client.call(m.RenewLease(lease="l", ttl_s=60))
        entry, packs = _backup(client, repository)
        agent.kill()
    with start_agent(tmp_path) as again, again.client(MANAGER) as client:
        client.call(m.RenewLease(lease="l", ttl_s=60))
        assert isinstance(client.call(m.AbortSession(lease="l", repository=repository, sid=entry.sid)), m.Done)
    check_fenced(repository, tmp_path / "cache", entry, packs)


def test_another_lease_cannot_use_the_session(agent: RunningAgent, client: ControlClient, repository: str) -> None:
    entry, packs = _backup(client, repository)
    other = KeyPair.generate()
    agent.authorize(other.public)
    with agent.client(other) as theirs:
        theirs.call(m.RenewLease(lease="l", ttl_s=60))
        with pytest.raises(Locked):
            theirs.call(m.BeginSession(lease="l", repository=repository, sid=entry.sid))
        _, record = _blob("theirs")
        with pytest.raises(SessionUnknown):
            theirs.call(m.StoreBlob(lease="l", repository=repository, sid=entry.sid, mover=9, record=record))
        with pytest.raises(SessionUnknown):
            _commit(theirs, repository, entry, packs)
        with pytest.raises(Locked):  # done would mean that it cannot be committed any more
            theirs.call(m.AbortSession(lease="l", repository=repository, sid=entry.sid))
    assert isinstance(_commit(client, repository, entry, packs), m.Done)


def test_verification_tells_its_end(
    client: ControlClient, repository: str, pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    entry, packs = _backup(client, repository)
    _commit(client, repository, entry, packs)

    def verify(ticket: str, points: tuple[Sid, ...] = ()) -> m.VerifyEnded:
        request = m.VerifyRepository(lease="l", ticket=ticket, repository=repository, level=1, points=points)
        assert isinstance(client.call(request), m.Done)
        while not isinstance(push := pushes.get(timeout=WAIT_S), m.VerifyEnded):
            assert isinstance(push, m.VerifyProgress)
        assert push.ticket == ticket
        return push

    good = verify("good")
    assert (good.findings, good.error) == ((), None)
    assert good.objects_checked > 0
    pack = next(path for path in Path(repository, "packs").rglob(packs[0].name))
    pack.unlink()
    bad = verify("bad", (entry.sid,))
    assert entry.sid in {sid for finding in bad.findings for sid in finding.points}
    assert any(finding.lost for finding in bad.findings)
    nobody = new_sid()
    unknown = verify("unknown", (nobody,))
    assert unknown.error is None
    assert f"points/{nobody}" in {finding.object for finding in unknown.findings}


def test_a_verification_can_be_stopped(
    client: ControlClient, repository: str, pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    for number in range(5000):  # work for about a second
        Path(repository, "keys", f"slot-{number}").touch(0o600)
    client.call(m.VerifyRepository(lease="l", ticket="long", repository=repository, level=1))
    for _ in range(2):  # idempotent
        assert isinstance(client.call(m.StopVerification(lease="l", ticket="long")), m.Done)
    ended = pushes.get(timeout=WAIT_S)
    assert isinstance(ended, m.VerifyEnded)
    assert ended.error is not None
    assert ended.error.code == Cancelled.code
    assert isinstance(client.call(m.StopVerification(lease="l", ticket="never heard of")), m.Done)


def test_the_index_can_be_rebuilt(client: ControlClient, repository: str) -> None:
    _backup(client, repository)
    assert client.call(m.RebuildIndex(repository=repository)) == m.IndexRebuilt(records=1)


def test_what_is_refused(agent: RunningAgent, client: ControlClient, repository: str, tmp_path: Path) -> None:
    store = agent.roots["repository"]
    (store / "way-out").symlink_to(tmp_path)
    sid = new_sid()
    oversized = m.StoreBlob(lease="l", repository=repository, sid=sid, mover=0, record=bytes((4 << 20) + 1))
    odd_number = m.StoreBlob(lease="l", repository=repository, sid=sid, mover=-1, record=b"")
    twice = m.CreateRepository(repository=f"{store}/two", repository_id=REPOSITORY_ID, slots=(SLOT, SLOT))
    cases: list[tuple[m.Request, type[HoldfastError]]] = [
        (m.OpenRepository(repository=str(tmp_path)), RepositoryDenied),
        (m.OpenRepository(repository=f"{store}/way-out/x"), RepositoryDenied),
        (m.OpenRepository(repository=f"{store}/../disks"), RepositoryDenied),
        (m.OpenRepository(repository="store"), RepositoryDenied),
        (m.OpenRepository(repository=f"{store}/none"), RepositoryNotFound),
        (m.CreateRepository(repository=repository, repository_id=REPOSITORY_ID, slots=()), RepositoryExists),
        (m.CreateRepository(repository="/holdfast", repository_id=REPOSITORY_ID, slots=()), RepositoryDenied),
        (twice, UsageError),
        (m.BeginSession(lease="none", repository=repository, sid=sid), LeaseUnknown),
        (m.BeginSession(lease="l", repository=repository, sid=Sid("../../x")), UsageError),
        (oversized, UsageError),
        (odd_number, UsageError),
        (m.ReadBlob(repository=repository, blob="xyz"), UsageError),
        (m.ReadBlob(repository=repository, blob="ab" * 32), ObjectMissing),
        (m.ReadPoint(repository=repository, sid=sid), PointNotFound),
        (m.ReadPoint(repository=repository, sid=Sid("../keys/first")), UsageError),
        (m.VerifyRepository(lease="l", ticket="t", repository=repository, level=2), UsageError),
        (m.VerifyRepository(lease="l", ticket="t", repository="/etc", level=0), RepositoryDenied),
        (m.ProbeDisk(disk="file:/etc/passwd"), DiskDenied),
        (m.ProbeDisk(disk=f"file:{agent.roots['proxy']}/none"), DiskNotFound),
    ]
    for request, error in cases:
        with pytest.raises(error):
            client.call(request)


def test_a_disk_is_probed(agent: RunningAgent, client: ControlClient) -> None:
    disk = agent.roots["proxy"] / "a.img"
    disk.write_bytes(bytes(12288))
    assert client.call(m.ProbeDisk(disk=f"file:{disk}")) == m.DiskFacts(size_bytes=12288)
