"""Four eyes: nothing goes without somebody else, and a grant is for one command, its targets, once, for a while."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Clock
from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import Denied, NotFound, UsageError
from holdfast_manager.api.carrying import Carrier
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.cli.app import App
from holdfast_manager.cli.main import run
from holdfast_manager.retention.policy import PointFacts, RetentionPolicy, decide, shortened
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.approval import ASKED_S, GRANTED_S, ApprovalNeeded, ApprovalState
from holdfast_manager.rights.four_eyes import NEEDED
from holdfast_manager.rights.roles import Role
from holdfast_manager.rights.values import UserEntry
from holdfast_manager.settings import ManagerSettings
from lab.command_line import Holdfast

LOCAL = Actor.service()


def remote(name: str) -> Actor:
    return Actor.of(UserEntry(name=name, roles=(Role.ADMINISTRATOR,)), "api 10.0.0.7")


ADA, BOB = remote("ada"), remote("bob")


def asked(catalog: Catalog, actor: Actor = ADA, targets: tuple[str, ...] = ("point 1",)) -> int:
    with pytest.raises(ApprovalNeeded) as needed:
        catalog.approvals.pass_or_ask(actor, "prune", targets)
    return int(needed.value.fields["number"])


@pytest.mark.both_databases
def test_a_grant_is_for_one_command_its_targets_and_once(catalog: Catalog, clock: Clock) -> None:
    assert catalog.approvals.pass_or_ask(ADA, "prune", ["point 1"]) is None
    catalog.approvals.require(LOCAL)
    number = asked(catalog)
    assert asked(catalog) == number  # asking again is the same request
    assert [each.state for each in catalog.approvals.list()] == [ApprovalState.ASKED]
    catalog.approvals.grant(number, BOB)
    others = {
        asked(catalog, targets=("point 1", "point 2")),
        asked(catalog, targets=("point 2",)),
        asked(catalog, BOB),
        asked(catalog, LOCAL),
    }
    assert number not in others
    with pytest.raises(ApprovalNeeded):
        catalog.approvals.pass_or_ask(ADA, "repository remove", ["point 1"])
    assert catalog.approvals.pass_or_ask(ADA, "prune", ["point 1"]) == number
    assert asked(catalog) not in {number, *others}
    entry = catalog.approvals.list(everything=True)[0]
    assert (entry.id, entry.state, entry.decider) == (number, ApprovalState.USED, "bob")


@pytest.mark.parametrize(
    ("asker", "decider", "may"),
    [(ADA, ADA, False), (ADA, BOB, True), (ADA, LOCAL, True), (LOCAL, LOCAL, False), (LOCAL, ADA, True)],
)
def test_somebody_else_decides(catalog: Catalog, asker: Actor, decider: Actor, may: bool) -> None:
    catalog.approvals.require(LOCAL)
    number = asked(catalog, asker)
    if may:
        assert catalog.approvals.grant(number, decider).state is ApprovalState.GRANTED
        return
    with pytest.raises(Denied):
        catalog.approvals.grant(number, decider)
    assert catalog.approvals.refuse(number, decider).state is ApprovalState.REFUSED
    assert asked(catalog, asker) != number


def test_a_user_of_the_same_name_as_an_account_of_the_host_is_another(catalog: Catalog) -> None:
    catalog.approvals.require(LOCAL)
    number = asked(catalog, LOCAL)
    assert catalog.approvals.grant(number, remote(LOCAL.name)).state is ApprovalState.GRANTED


def test_what_is_decided_expired_or_unknown_is_told(catalog: Catalog, clock: Clock) -> None:
    catalog.approvals.require(LOCAL)
    number = asked(catalog)
    with pytest.raises(NotFound):
        catalog.approvals.grant(99, BOB)
    catalog.approvals.grant(number, BOB)
    with pytest.raises(UsageError, match="it is granted"):
        catalog.approvals.refuse(number, BOB)
    clock.pass_time(GRANTED_S)
    later = asked(catalog)
    assert later != number
    clock.pass_time(ASKED_S)
    with pytest.raises(UsageError, match="it is expired"):
        catalog.approvals.grant(later, BOB)
    assert catalog.approvals.list() == ()


_policies = st.builds(
    RetentionPolicy,
    days=st.integers(0, 4),
    count=st.integers(0, 4),
    weekly=st.integers(0, 2),
    monthly=st.integers(0, 2),
    minimum=st.integers(1, 4),
)


@given(_policies, _policies, st.lists(st.floats(0, 90 * 86400.0), max_size=12))
def test_what_is_not_shortened_prunes_nothing_more(
    old: RetentionPolicy, new: RetentionPolicy, ages: list[float]
) -> None:
    now = 1_800_000_000.0
    points = [PointFacts(sid=f"{number:032x}", created=now - age) for number, age in enumerate(ages)]
    kept, left = (
        {each.sid for each in decide(policy, points, now) if each.keep} for policy in (old, new)
    )  # fmt: skip
    assert shortened(old, new) or kept <= left


@pytest.fixture
def as_ada(holdfast: Holdfast, stocked: Catalog, tmp_path: Path) -> Callable[..., int]:
    """Runs a command as the administrator ada would through the API; its exit code."""
    return lambda *arguments: run(arguments, App(arguments, ADA, Carrier(tmp_path, {})))


def test_every_command_of_the_table_waits_for_somebody_else(
    holdfast: Holdfast, stocked: Catalog, as_ada: Callable[..., int], manager_settings: ManagerSettings, tmp_path: Path
) -> None:
    KeyPair.generate().save(manager_settings.identity_file)
    alone = holdfast("approval", "require")
    assert (alone.code, "no other administrator" in alone.err) == (2, True)
    key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
    assert holdfast("user", "add", "ada", "--role", "administrator", "--key", key).code == 0
    assert holdfast("user", "add", "vera", "--role", "viewer").code == 0
    assert holdfast("user", "add", "otto", "--role", "operator", "--role", "viewer").code == 0
    assert holdfast("repository", "group", "create", "pool", "--member", "main").code == 0
    nothing = tmp_path / "nothing.toml"
    nothing.write_text("[jobs]\n")
    site = tmp_path / "site.toml"
    site.write_text('[jobs.web]\nserver = "lab"\nrepository = "main"\ninclude = ["web*"]\nretention.days = 1\n')
    stocked.points.add(
        PointEntryRow(
            sid="ab" * 16, repository="main", server="lab", job="old", vm_id="1", vm_name="web", created=1.0,
            size_bytes=1,
        )
    )  # fmt: skip
    assert holdfast("approval", "require").code == 0
    options = ("--server", "lab", "--include", "*", "--repository", "main")
    guarded = [
        ("repository", "remove", "main"),
        ("repository", "evacuate", "main"),
        ("agent", "remove", "b"),
        ("job", "remove", "web"),
        ("apply", str(site)),
        ("apply", str(nothing), "--prune"),
        *(("key", *command) for command in (("add", "main"), ("change", "main"), ("remove", "main", "1"))),
        ("key", "paper", "main"),
        ("unprotect", "abab"),
        ("job", "edit", "web", "--keep-days", "1"),
        ("job", "create", "old", *options),
        ("user", "add", "eve", "--role", "viewer"),
        ("user", "edit", "vera", "--role", "operator"),
        ("user", "edit", "vera", "--key", KeyPair.generate().public),
        ("user", "edit", "ada", "--no-key"),
        ("user", "edit", "ada", "--no-password"),
        ("user", "remove", "vera"),
        ("user", "token", "ada"),
        ("approval", "waive"),
    ]
    elsewhere = {("prune",), ("config", "backup")}  # test_remote_work.py; the test below
    assert {path for path in NEEDED if any(each[: len(path)] == path for each in guarded)} == NEEDED.keys() - elsewhere

    def all_that_is() -> list[object]:
        kept = (stocked.users, stocked.jobs, stocked.repositories, stocked.agents, stocked.sessions)
        return [each.list() for each in kept]

    before = all_that_is()
    for arguments in guarded:
        done = holdfast(*arguments)
        assert (done.code, "takes the approval of somebody else" in done.err) == (13, True), (arguments, done)
    assert all_that_is() == before
    numbers = [each["id"] for each in holdfast("approval", "list", "--output", "json").json["requests"]]
    assert len(numbers) == len(guarded)
    assert {holdfast("approval", "grant", str(number)).code for number in numbers} == {13}
    free = [
        ("job", "edit", "web", "--keep-days", "30"),
        ("user", "edit", "otto", "--role", "viewer"),
        ("user", "edit", "vera", "--no-key", "--disable"),
        ("user", "edit", "ada", "--disable", "--revoke-tokens"),
        ("agent", "disable", "b"),
        ("repository", "seal", "main"),
    ]
    for arguments in free:
        assert holdfast(*arguments).code == 0, arguments
    waive = numbers[-1]
    assert as_ada("approval", "grant", str(waive)) == 0
    assert as_ada("approval", "waive") == 13  # ada's own request: nobody has granted that
    assert holdfast("approval", "waive").code == 0
    assert not stocked.approvals.required()
    told = [(each.actor, each.action, each.target, each.outcome) for each in stocked.audit.list(limit=1000)]
    me = Actor.of_this_process().name
    assert [each for each in told if each[1].startswith("approval") and each[3] in ("done", "approval_needed")] == [
        (me, "approval waive", "", "done"),
        (me, "approval used", str(waive), "done"),
        ("ada", "approval waive", "", "approval_needed"),
        ("ada", "approval grant", str(waive), "done"),
        (me, "approval waive", "", "approval_needed"),
        (me, "approval require", "", "done"),
    ]


def test_keys_leave_the_host_with_approval_and_stay_on_it_without(
    holdfast: Holdfast, stocked: Catalog, as_ada: Callable[..., int], manager_settings: ManagerSettings, tmp_path: Path
) -> None:
    KeyPair.generate().save(manager_settings.identity_file)
    secret = tmp_path / "pass"
    secret.touch(0o600)
    secret.write_text("correct horse battery staple\n")
    stocked.approvals.require(LOCAL)
    assert as_ada("config", "backup", str(tmp_path / "for-ada")) == ApprovalNeeded.exit_code
    assert holdfast("config", "backup", "--passphrase-file", secret, tmp_path / "here").code == 0
