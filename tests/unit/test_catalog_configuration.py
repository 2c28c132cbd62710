"""Servers, agents, repositories and jobs: what goes in comes out, and nothing in use disappears."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import AlreadyExists, ConfigInvalid, Locked, NotFound, UnknownConfigKey
from holdfast_agent.model.change import AuditRate
from holdfast_agent.model.rules import Compression
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.job_tables import job_from_table, job_to_table
from holdfast_manager.catalog.values import (
    AgentEntry,
    AgentRole,
    GuestPolicy,
    GuestSettings,
    JobSpec,
    RepositoryEntry,
    ServerEntry,
    SessionResult,
)

pytestmark = pytest.mark.both_databases

FULL_JOB = JobSpec(
    name="db",
    server="lab",
    include=("db-*", "pg1"),
    exclude=("db-test",),
    repository="main",
    proxies=("b", "a"),
    compression=Compression.ZSTD,
    block_bytes=256 << 10,
    bandwidth_bytes_per_s=50 << 20,
    streams=5,
    retries=0,
    retry_pause_s=1.5,
    guest=GuestSettings("scripts", GuestPolicy.TRY, {"pre_freeze": "/bin/a"}),
    audit="2.5 %",
    snapshot={"how": "reflink"},
    enabled=False,
    description="nightly",
)


def test_what_was_added_comes_back_equal(stocked: Catalog) -> None:
    server = ServerEntry(name="prod", plugin="vsphere", options={"address": "vc", "nested": {"a": [1, 2.5, None]}})
    agent = AgentEntry(name="c", endpoint="c:1", public_key="k", roles=(AgentRole.PROXY,), proxy_slots=9, enabled=False)
    repository = RepositoryEntry(name="r2", agent="a", path="/x", repository_id="ab", encrypted=False, slots=7)
    stocked.servers.add(server)
    stocked.agents.add(agent)
    stocked.repositories.add(repository)
    stocked.jobs.add(FULL_JOB)
    assert stocked.servers.get("prod") == server
    assert stocked.agents.get("c") == agent
    assert stocked.repositories.get("r2") == repository
    assert stocked.jobs.get("db") == FULL_JOB
    assert [job.name for job in stocked.jobs.list()] == ["db", "web"]
    assert [entry.name for entry in stocked.servers.list()] == ["lab", "prod"]


def test_update_replaces_and_keeps_the_secret(stocked: Catalog) -> None:
    stocked.servers.set_secret("lab", {"user": "root", "password": "hunter2"})
    stocked.servers.update(ServerEntry(name="lab", plugin="qemu", options={}))
    assert stocked.servers.get("lab") == ServerEntry(name="lab", plugin="qemu", options={}, has_secret=True)
    assert stocked.servers.secret("lab") == {"user": "root", "password": "hunter2"}
    stocked.servers.set_secret("lab", None)
    assert not stocked.servers.get("lab").has_secret
    assert stocked.servers.secret("lab") == {}
    stocked.repositories.set_master_key("main", bytes(32))
    stocked.repositories.update(msgspec.structs.replace(stocked.repositories.get("main"), slots=1))
    assert stocked.repositories.get("main").slots == 1
    assert stocked.repositories.master_key("main") == bytes(32)


def test_a_wrong_name_is_answered_with_the_nearest(stocked: Catalog) -> None:
    with pytest.raises(NotFound, match="Did you mean 'lab'"):
        stocked.servers.get("labb")
    with pytest.raises(NotFound, match="Known: a, b"):
        stocked.agents.remove("zzz")
    with pytest.raises(NotFound, match="'web'"):
        stocked.jobs.get("webb")
    with pytest.raises(NotFound, match="no repository named 'mian'"):
        stocked.jobs.add(JobSpec(name="x", server="lab", include=("*",), repository="mian"))
    with pytest.raises(NotFound, match="no agent named 'q'"):
        stocked.jobs.add(JobSpec(name="x", server="lab", include=("*",), repository="main", proxies=("q",)))


def test_names_are_taken_once(stocked: Catalog) -> None:
    for add in (
        lambda: stocked.servers.add(stocked.servers.get("lab")),
        lambda: stocked.agents.add(stocked.agents.get("a")),
        lambda: stocked.repositories.add(stocked.repositories.get("main")),
        lambda: stocked.jobs.add(stocked.jobs.get("web")),
    ):
        with pytest.raises(AlreadyExists):
            add()


def test_what_is_in_use_cannot_be_removed(stocked: Catalog) -> None:
    stocked.jobs.update(msgspec.structs.replace(stocked.jobs.get("web"), proxies=("b",)))
    with pytest.raises(InUse, match="job web"):
        stocked.servers.remove("lab")
    with pytest.raises(InUse, match="job web"):
        stocked.repositories.remove("main")
    with pytest.raises(InUse, match="repository main"):
        stocked.agents.remove("a")
    with pytest.raises(InUse, match="job web"):
        stocked.agents.remove("b")
    session = stocked.sessions.begin_job("web")
    with pytest.raises(Locked, match=f"session {session.id}"):
        stocked.jobs.remove("web")
    stocked.sessions.end(session.id, SessionResult.SUCCESS)
    stocked.jobs.remove("web")
    stocked.repositories.remove("main")
    stocked.agents.remove("a")
    stocked.agents.remove("b")
    stocked.servers.remove("lab")
    assert stocked.servers.list() == stocked.agents.list() == stocked.repositories.list() == stocked.jobs.list() == ()


def test_a_server_with_open_obligations_stays(stocked: Catalog) -> None:
    session = stocked.sessions.begin_job("web")
    number = stocked.obligations.write(session.id, "lab", "images", "snapshot", {"id": "s1"})
    stocked.sessions.end(session.id, SessionResult.FAILED)
    stocked.jobs.remove("web")
    with pytest.raises(InUse, match="snapshot"):
        stocked.servers.remove("lab")
    stocked.obligations.strike(number)
    stocked.servers.remove("lab")


def test_bad_values_are_refused_before_they_are_stored(stocked: Catalog) -> None:
    with pytest.raises(ConfigInvalid, match="name"):
        stocked.servers.add(ServerEntry(name="no spaces", plugin="images"))
    with pytest.raises(ConfigInvalid, match="proxy_slots"):
        stocked.agents.update(msgspec.structs.replace(stocked.agents.get("a"), proxy_slots=0))
    with pytest.raises(ConfigInvalid, match="streams"):
        stocked.jobs.add(JobSpec(name="x", server="lab", include=("*",), repository="main", streams=0))
    assert [entry.name for entry in stocked.servers.list()] == ["lab"]


def test_proxies_are_a_preference_not_a_restriction(stocked: Catalog) -> None:
    assert stocked.agents.proxies() == ("a", "b")
    assert stocked.agents.proxies(("b", "gone", "b")) == ("b", "a")
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("a"), enabled=False))
    assert stocked.agents.proxies(("a", "b")) == ("b",)


def test_a_job_table_takes_sizes_and_durations_as_text() -> None:
    table = {
        "name": "web",
        "server": "lab",
        "include": ["*"],
        "repository": "main",
        "block_size": "4 MiB",
        "bandwidth": "50 MiB",
        "retry_pause": "2 min",
    }
    spec = job_from_table(table, "jobs.toml")
    assert (spec.block_bytes, spec.block_log2, spec.bandwidth_bytes_per_s, spec.retry_pause_s) == (
        4 << 20,
        22,
        50 << 20,
        120,
    )
    assert job_from_table(job_to_table(FULL_JOB), "again") == FULL_JOB


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"blocksize": "1 MiB"}, UnknownConfigKey, "did you mean 'block_size'"),
        ({"block_size": "1 parsec"}, ConfigInvalid, "jobs.toml: block_size: '1 parsec' is not a size"),
        ({"block_size": "3 MiB"}, ConfigInvalid, "power of two"),
        ({"block_size": "8 MiB"}, ConfigInvalid, "power of two"),
        ({"streams": 17}, ConfigInvalid, "streams"),
        ({"on_cbt_loss": "ignore"}, ConfigInvalid, "on_cbt_loss"),
        ({"audit": "often"}, ConfigInvalid, "audit: 'often' is neither a number of blocks"),
        ({"audit": "101 %"}, ConfigInvalid, "audit"),
        ({"audit": -1}, ConfigInvalid, "audit"),
        ({"include": []}, ConfigInvalid, "include"),
        ({"guest": {"processor": "scripts", "polcy": "try"}}, UnknownConfigKey, "guest.polcy"),
    ],
)
def test_a_bad_job_table_is_refused(change: dict[str, object], error: type[Exception], says: str) -> None:
    table = {"name": "web", "server": "lab", "include": ["*"], "repository": "main"}
    with pytest.raises(error, match=says):
        job_from_table({**table, **change}, "jobs.toml")


@pytest.mark.parametrize(
    ("audit", "kept", "rate"),
    [
        (None, 64, AuditRate(64)),
        (7, 7, AuditRate(7)),
        ("7", 7, AuditRate(7)),
        (0, 0, AuditRate(0)),
        ("0%", "0 %", AuditRate(0)),
        ("0.25%", "0.25 %", AuditRate(0, 0.25)),
        ("100.0 %", "100 %", AuditRate(0, 100)),
    ],
)
def test_the_rate_of_the_audit_is_a_number_or_a_share(audit: object, kept: object, rate: AuditRate) -> None:
    table = {"name": "web", "server": "lab", "include": ["*"], "repository": "main"}
    spec = job_from_table(table if audit is None else {**table, "audit": audit}, "jobs.toml")
    assert (spec.audit, spec.audit_rate) == (kept, rate)
    assert job_from_table(job_to_table(spec), "again") == spec
