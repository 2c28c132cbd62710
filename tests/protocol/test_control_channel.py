"""The control channel against peers that do not keep to it. Every request type is tried in every forbidden state."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import ControlClient
from holdfast_agent.errors import (
    ConnectionLost,
    HoldfastError,
    LeaseUnknown,
    NotAuthorised,
    RoleMissing,
    Unreachable,
    UsageError,
    VersionMismatch,
)
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId, new_sid
from holdfast_agent.model.points import PointEntry
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.service.dispatch import ROUTES
from holdfast_agent.wire import codec
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.specs import BackupOrder, BlockTree, ReaderSpec
from lab.agents import RunningAgent, start_agent
from lab.control_peer import RawPeer
from lab.waiting import wait_until

MANAGER = KeyPair.generate()
SID = new_sid()
HELLO = m.Hello(major=1, minor=0, software="test", clock=0.0)
ORDER = BackupOrder(geometry=Geometry(0), disks=(), mode=ChangeMode.FULL)

TREE = BlockTree(BlockId(bytes(32)), Geometry(1 << 20))
REQUESTS: list[m.Request] = [
    HELLO,
    m.Heartbeat(),
    m.AskHealth(),
    m.Enrol(key=MANAGER.public, name="n"),
    m.RenewLease(lease="l", ttl_s=10),
    m.CloseLease(lease="l"),
    m.PrepareMover(lease="l", mover="m", task_id="t"),
    m.ListExports(),
    m.DiscardExport(export="e"),
    m.StartMover(lease="l", mover="m", spec=ReaderSpec(task_id="t", secret=bytes(32), repository="/r")),
    m.BeginTransfer(lease="l", mover="m", order=ORDER),
    m.ChangeRules(lease="l", mover="m", rules=TransferRules()),
    m.StopMover(lease="l", mover="m", reason="r"),
    m.ListMovers(lease="l"),
    m.ProbeDisk(disk="file:/x"),
    m.ListExports(),
    m.DiscardExport(export="e"),
    m.CreateRepository(repository="/r", repository_id="0" * 32, slots=()),
    m.AddKeySlot(repository="/r", slot=m.KeySlot("s", b"")),
    m.RemoveKeySlot(repository="/r", slot="s"),
    m.RaiseKeyEpoch(repository="/r", epoch=2),
    m.OpenRepository(repository="/r"),
    m.ListPoints(repository="/r"),
    m.ReadPoint(repository="/r", sid=SID),
    m.CompareTrees(repository="/r", tree=TREE, since=TREE),
    m.BeginSession(lease="l", repository="/r", sid=SID),
    m.StoreBlob(lease="l", repository="/r", sid=SID, mover=0, record=b""),
    m.ReadBlob(repository="/r", blob="00"),
    m.CommitSession(lease="l", repository="/r", entry=PointEntry(SID, b"", b""), packs=()),
    m.AbortSession(lease="l", repository="/r", sid=SID),
    m.VerifyRepository(lease="l", ticket="t", repository="/r", level=0),
    m.StopVerification(lease="l", ticket="t"),
    m.CollectGarbage(lease="l", ticket="t", repository="/r"),
    m.RebuildIndex(repository="/r"),
    m.TombstonePoints(repository="/r", points=(m.PointToPrune(sid=SID),), window_s=0),
    m.UndoTombstone(repository="/r", sid=SID),
    m.RetainPoint(repository="/r", sid=SID, hold=True),
    m.RepositoryStatistics(lease="l", ticket="t", repository="/r"),
]


def _named(request: m.Request) -> str:
    return type(request).__name__


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent without any role."""
    with start_agent(tmp_path_factory.mktemp("bare"), roles=(), authorised=[MANAGER.public]) as agent:
        yield agent


@pytest.fixture
def peer(bare: RunningAgent) -> Iterator[RawPeer]:
    with RawPeer(bare.endpoint, bare.public_key, MANAGER) as raw:
        yield raw


@pytest.fixture
def greeted(peer: RawPeer) -> RawPeer:
    assert isinstance(peer.ask(HELLO), m.HelloReply)
    return peer


def _code(reply: m.Reply | m.Push | None) -> str:
    assert isinstance(reply, m.Failure), reply
    return reply.error.code


def test_the_table_and_these_tests_know_every_request() -> None:
    assert set(ROUTES) == set(codec.REQUESTS.values())
    assert {type(request) for request in REQUESTS} == set(ROUTES)


@pytest.mark.parametrize("request_", [r for r in REQUESTS if r is not HELLO], ids=_named)
def test_nothing_is_handled_before_hello(peer: RawPeer, request_: m.Request) -> None:
    assert _code(peer.ask(request_)) == NotAuthorised.code


@pytest.mark.parametrize("request_", [r for r in REQUESTS if ROUTES[type(r)].role is not None], ids=_named)
def test_a_missing_role_is_refused_before_the_handler(greeted: RawPeer, request_: m.Request) -> None:
    assert _code(greeted.ask(request_)) == RoleMissing.code


@pytest.mark.parametrize(
    "request_",
    [r for r in REQUESTS if hasattr(r, "lease") and not isinstance(r, (m.RenewLease, m.CloseLease))],
    ids=_named,
)
def test_a_lease_that_was_never_opened(greeted: RawPeer, request_: m.Request) -> None:
    role = ROUTES[type(request_)].role
    assert _code(greeted.ask(request_)) == (LeaseUnknown.code if role is None else RoleMissing.code)


def test_the_role_of_a_mover_is_checked_by_its_specification(greeted: RawPeer) -> None:
    assert isinstance(greeted.ask(m.RenewLease(lease="l", ttl_s=10)), m.Done)
    start = next(request for request in REQUESTS if isinstance(request, m.StartMover))
    assert _code(greeted.ask(start)) == RoleMissing.code
    assert isinstance(greeted.ask(m.CloseLease(lease="l")), m.Done)


@pytest.mark.parametrize("major", [0, 2, -1, 10**9])
def test_another_major_version_is_refused_and_stays_unknown(peer: RawPeer, major: int) -> None:
    assert _code(peer.ask(msgspec.structs.replace(HELLO, major=major))) == VersionMismatch.code
    assert _code(peer.ask(m.Heartbeat())) == NotAuthorised.code


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "malformed_message"),
        (b"\xc1garbage", "malformed_message"),
        (b"\x91" * 50_000, "malformed_message"),
        (msgspec.msgpack.encode({"type": "RenewLease", "lease": 5, "ttl_s": 1}), "malformed_message"),
        (msgspec.msgpack.encode({"type": "__class__"}), "unknown_message"),
        (msgspec.msgpack.encode({"type": "Done"}), "unknown_message"),
        (msgspec.msgpack.encode({"type": "MoverChanged"}), "unknown_message"),
        (bytes(codec.CONTROL_LIMIT_BYTES + 1), "message_too_large"),
        (msgspec.msgpack.encode({"type": "StoreBlob", "record": bytes(9 << 20)}), "message_too_large"),
    ],
    ids=itertools.count(),
)
def test_bad_frames_get_a_typed_error_and_the_agent_lives_on(greeted: RawPeer, frame: bytes, code: str) -> None:
    assert _code(greeted.ask(frame)) == code
    assert isinstance(greeted.ask(m.Heartbeat()), m.Done)


@pytest.mark.parametrize("frames", [(b"",), (b"x",), (b"1234567",), (b"12345678", b"", b""), (b"",) * 100])
def test_a_message_without_its_two_frames_is_dropped(greeted: RawPeer, frames: tuple[bytes, ...]) -> None:
    greeted.send(*frames)
    assert isinstance(greeted.ask(m.Heartbeat()), m.Done)


def test_beyond_the_limit_of_the_socket_the_connection_ends_and_the_agent_lives_on(bare: RunningAgent) -> None:
    with RawPeer(bare.endpoint, bare.public_key, MANAGER) as hostile, bare.client(MANAGER) as client:
        assert isinstance(hostile.ask(HELLO), m.HelloReply)
        hostile.send(codec.pack_correlation(7), bytes(codec.ORDER_LIMIT_BYTES + 1))
        hostile.send(codec.pack_correlation(8), codec.encode(m.Heartbeat()))
        reply = hostile.receive(8, timeout_s=1.0)
        assert reply is None or _code(reply) == NotAuthorised.code  # lost with the connection, or a new, unknown one
        assert isinstance(client.call(m.Heartbeat()), m.Done)


@pytest.mark.parametrize("ttl_s", [-1.0, 0.0, 4.9, 3601.0, float("inf"), float("nan")])
def test_the_time_of_a_lease_is_bounded(greeted: RawPeer, ttl_s: float) -> None:
    assert _code(greeted.ask(m.RenewLease(lease="l", ttl_s=ttl_s))) == UsageError.code


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "\x1b[31m"])
def test_names_are_bounded_and_printable(greeted: RawPeer, name: str) -> None:
    assert _code(greeted.ask(m.RenewLease(lease=name, ttl_s=10))) == UsageError.code


def test_an_unauthorised_key_gets_no_answer(bare: RunningAgent) -> None:
    stranger = bare.client(KeyPair.generate(), timeout_s=0.6)
    with pytest.raises(Unreachable, match=r"something listens there.*holdfast-agent show") as caught:
        stranger.connect()
    assert caught.value.retryable


def test_a_key_refused_before_the_first_word_ends_no_later(bare: RunningAgent) -> None:
    """libzmq gives such a connection up for good, and a send would wait for another one for ever."""

    class Slow(ControlClient):
        """It greets only when the agent has refused its key and its own socket has seen that."""

        def _greet(self, timeout_s: float) -> None:
            wait_until(lambda: self._keys.public in bare.log.read_text(), "the agent to refuse the key")
            ended.wait(0.1)
            super()._greet(timeout_s)

    def connect() -> None:
        with pytest.raises(Unreachable):
            Slow(bare.endpoint, bare.public_key, KeyPair.generate(), print, 0.3).connect()
        ended.set()

    ended = threading.Event()
    threading.Thread(target=connect, daemon=True).start()
    assert ended.wait(30), "the client hangs"


def test_a_wrong_server_key_gets_no_answer(bare: RunningAgent) -> None:
    with pytest.raises(Unreachable):
        ControlClient(bare.endpoint, KeyPair.generate().public, MANAGER, print, 0.6).connect()


def test_nobody_listens(bare: RunningAgent) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 within 0\.3 s: its host answers, but nothing listens"):
        ControlClient("tcp://127.0.0.1:1", bare.public_key, MANAGER, print, 0.3).connect()


def test_a_name_that_leads_nowhere_is_told(bare: RunningAgent) -> None:
    with pytest.raises(Unreachable, match=r"the name agent\.invalid leads to no address here"):
        ControlClient("tcp://agent.invalid:8430", bare.public_key, MANAGER, print, 0.3).connect()


@pytest.mark.parametrize("endpoint", ["", "localhost:1", "tcp://", "tcp://x", "tcp://x:", "tcp://:1", "ipc:///x"])
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(UsageError, match="tcp://HOST:PORT"):
        ControlClient(endpoint, MANAGER.public, MANAGER, print)


def test_what_the_agent_says_of_itself(bare: RunningAgent) -> None:
    with bare.client(MANAGER) as client:
        hello = client.hello
    assert (hello.major, hello.agent, hello.roles, hello.proxy_slots, hello.disk_schemes) == (1, "agent", (), 0, ())


def test_a_closed_client_says_so(bare: RunningAgent) -> None:
    client = bare.client(MANAGER).connect()
    client.close()
    client.close()
    with pytest.raises(ConnectionLost):
        client.call(m.Heartbeat())
    with pytest.raises(UsageError, match="make a new one"):
        client.connect()


def test_two_managers_cannot_touch_each_others_leases(bare: RunningAgent) -> None:
    other = KeyPair.generate()
    bare.authorize(other.public)
    with bare.client(MANAGER) as mine, bare.client(other) as theirs:
        mine.call(m.RenewLease(lease="shared-name", ttl_s=10))
        for request in (m.ListMovers(lease="shared-name"), m.StopMover(lease="shared-name", mover="m", reason="r")):
            with pytest.raises(LeaseUnknown):
                theirs.call(request)
        theirs.call(m.CloseLease(lease="shared-name"))
        assert isinstance(mine.call(m.ListMovers(lease="shared-name")), m.MoverList)


def test_revoked_at_a_running_connection(tmp_path: Path) -> None:
    keys = KeyPair.generate()
    with start_agent(tmp_path, roles=()) as agent:
        agent.authorize(keys.public)
        with agent.client(keys) as client:
            client.call(m.RenewLease(lease="l", ttl_s=10))
            agent.revoke(keys.public)
            with pytest.raises(NotAuthorised, match="not authorised any more"):
                client.call(m.ListMovers(lease="l"))
            with pytest.raises(Unreachable):
                agent.client(keys, timeout_s=0.5).connect()
            agent.authorize(keys.public)
            with pytest.raises(NotAuthorised, match="Hello"):
                client.call(m.ListMovers(lease="l"))
        with agent.client(keys) as again:
            assert isinstance(again.call(m.Heartbeat()), m.Done)


def test_a_key_list_that_is_broken_admits_no_new_connection(tmp_path: Path) -> None:
    with start_agent(tmp_path, roles=(), authorised=[MANAGER.public]) as agent:
        with agent.client(MANAGER) as before:
            agent.settings.authorised_keys_file.write_text("broken\n")
            with pytest.raises(Unreachable):
                agent.client(MANAGER, timeout_s=0.5).connect()
            assert isinstance(before.call(m.Heartbeat()), m.Done)
        assert "cannot be read" in agent.log.read_text()


def test_errors_from_the_agent_are_typed(bare: RunningAgent) -> None:
    with bare.client(MANAGER) as client, pytest.raises(HoldfastError) as caught:
        client.call(m.ListMovers(lease="none"))
    assert type(caught.value) is LeaseUnknown
    assert caught.value.fields["lease"] == "none"
