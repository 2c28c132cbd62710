"""The ledger of slots in one process; several processes are in the integration tests."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import NotFound, UsageError
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import AgentRole, RepositoryEntry, ServerLimits, SessionKind, SessionResult
from holdfast_manager.scheduler.capacities import job_limit, server_limits
from holdfast_manager.scheduler.occupation import occupation
from holdfast_manager.scheduler.preference import ranked
from holdfast_manager.scheduler.slots import SlotGrant, SlotLedger, SlotWait
from lab.slots import wish

pytestmark = pytest.mark.both_databases

pytestmark = pytest.mark.both_databases

BOTH = (AgentRole.PROXY, AgentRole.REPOSITORY)


@pytest.fixture
def ledger(stocked: Catalog, clock) -> SlotLedger:
    """Of a catalogue where "a" and "b" take one proxy task each and "main" takes four."""
    for name in ("a", "b"):
        stocked.agents.update(msgspec.structs.replace(stocked.agents.get(name), proxy_slots=1, repository_slots=9))
    return SlotLedger(stocked, clock)


@pytest.fixture
def one(stocked: Catalog) -> int:
    return stocked.sessions.begin(SessionKind.RESTORE, {}).id


@pytest.fixture
def two(stocked: Catalog) -> int:
    return stocked.sessions.begin(SessionKind.RESTORE, {}).id


def test_tasks_get_slots_in_order_and_the_rest_learn_why_they_wait(
    ledger: SlotLedger, one: int, two: int, clock
) -> None:
    for task in (1, 2, 3):
        ledger.request(one, task, wish("b", "a", job="web"))
    ledger.request(two, 1, wish("a", "b", job="web"))
    state = ledger.poll(one)
    assert state.grants == (SlotGrant(1, "b", "main"), SlotGrant(2, "a", "main"))
    reason = "waiting for a slot on proxy b or proxy a, next in line"
    assert state.waits == (SlotWait(3, reason, 0, clock.now),)
    assert ledger.poll(one) == state  # idempotent
    assert ledger.poll(two).waits[0].reason == "waiting for a slot on proxy a or proxy b, 1 ahead"
    ledger.release(one, 1)
    assert ledger.poll(two).grants == ()  # the slot went to the one who waited longer, though `two` asked first
    assert SlotGrant(3, "b", "main") in ledger.poll(one).grants
    ledger.release_all(one)
    assert ledger.poll(two).grants == (SlotGrant(1, "a", "main"),)
    assert ledger.poll(one) == msgspec.structs.replace(state, grants=(), waits=())


def test_what_is_in_use_and_who_waits_for_what_is_told(
    ledger: SlotLedger, stocked: Catalog, one: int, two: int, clock
) -> None:
    for task in (1, 2):
        ledger.request(one, task, wish("b", "a"))
    clock.pass_time(3)
    ledger.request(two, 1, wish("a"))
    ledger.poll(one)
    found = occupation(stocked.database)
    used = {use.resource: (use.used, use.slots) for use in found.slots}
    assert used["proxy a"] == used["proxy b"] == (1, 1)
    assert used["repository main"] == (2, 4)
    assert {(each.session, each.holds[0]) for each in found.holding} == {(one, "proxy b"), (two, "proxy a")}
    (waits,) = found.waiting
    assert (waits.session, waits.since, waits.holds) == (one, clock.now - 3, ())
    assert waits.reason.startswith("waiting for a slot on proxy b or proxy a")
    ledger.release_all(one)
    ledger.release_all(two)
    empty = occupation(stocked.database)
    assert (empty.holding, empty.waiting) == ((), ())
    assert {use.used for use in empty.slots} == {0}


def test_sessions_of_different_jobs_take_turns(ledger: SlotLedger, one: int, two: int) -> None:
    for task in (1, 2, 3):
        ledger.request(one, task, wish("b", "a"))
    ledger.request(two, 1, wish("a", "b"))
    assert [grant.task for grant in ledger.poll(one).grants] == [1]
    assert ledger.poll(two).grants == (SlotGrant(1, "a", "main"),)
    assert [wait.ahead for wait in ledger.poll(one).waits] == [0, 1]


def test_slots_are_shared_by_weight_and_a_job_has_its_limit(ledger: SlotLedger, one: int, two: int) -> None:
    limit = (job_limit("heavy", 1),)
    for task in (1, 2):
        ledger.request(one, task, wish("b", "a", job="heavy", weight=9, limits=limit))
    ledger.request(two, 1, wish("b", job="light"))
    state = ledger.poll(one)
    assert [grant.task for grant in state.grants] == [1]
    assert state.waits[0].reason == "waiting for a slot on job heavy (at most 1), next in line"
    assert ledger.poll(two).waits[0].reason == "waiting for a slot on proxy b, next in line"


def test_limits_of_a_server_hold_while_they_are_set(ledger: SlotLedger, stocked: Catalog, one: int) -> None:
    limits = ServerLimits(tasks=9, tasks_per_host=2, tasks_per_datastore=1)
    stocked.servers.update(msgspec.structs.replace(stocked.servers.get("lab"), limits=limits))
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("b"), proxy_slots=9))
    for task, (host, datastore) in enumerate((("h1", "d1"), ("h1", "d1"), ("h1", "d2"), ("h1", "d3"), ("", ""))):
        ledger.request(one, task, wish("b", limits=server_limits("lab", limits, host, datastore)))
    state = ledger.poll(one)
    assert [grant.task for grant in state.grants] == [0, 2, 4]
    assert [wait.reason for wait in state.waits] == [
        "waiting for a slot on datastore lab/d1, next in line",
        "waiting for a slot on hypervisor host lab/h1, next in line",
    ]
    stocked.servers.update(msgspec.structs.replace(stocked.servers.get("lab"), limits=None))
    assert len(ledger.poll(one).grants) == 4, "main has four slots"


def test_any_proxy_is_one_that_is_enabled_when_its_turn_comes(ledger: SlotLedger, stocked: Catalog, one: int) -> None:
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("a"), roles=(AgentRole.REPOSITORY,)))
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("b"), enabled=False))
    ledger.request(one, 1, wish("*"))
    assert ledger.poll(one).waits[0].reason == "no slot on any proxy: disabled or removed"
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("b"), enabled=True))
    assert ledger.poll(one).grants == (SlotGrant(1, "b", "main"),)


@pytest.mark.parametrize(
    ("arguments", "ranks"),
    [
        ((["c", "a", "b"], True), (("*",),)),
        ((["c", "a", "b"], False), (("a", "b", "c"),)),
        ((["c", "a", "b"], True, ("b", "gone", "c"), (("a",),)), (("b",), ("c",), ("*",))),
        ((["c", "a", "b"], True, (), (("b",),)), (("b",), ("*",))),
        ((["c", "a", "b"], True, ("a",), (), {"a": 1}), (("b", "c"), ("a",))),
        ((["d", "c", "a", "b"], False, ("d",), (("c", "b"), ("a", "b"))), (("d",), ("b", "c"), ("a",))),
        ((["a"], False), (("a",),)),
        (([], True), ()),
    ],
)
def test_proxies_are_ranked_by_wish_place_and_failures(arguments, ranks) -> None:
    assert ranked(*arguments) == ranks


def test_what_a_task_reads_besides_counts_too(ledger: SlotLedger, stocked: Catalog, one: int) -> None:
    """A copy holds a slot of both repositories and of both hosts; one host of both is held once."""
    stocked.agents.update(
        msgspec.structs.replace(stocked.agents.get("b"), roles=BOTH, proxy_slots=9, repository_slots=1)
    )
    for name, agent, slots in (("far", "b", 9), ("near", "a", 1)):
        entry = RepositoryEntry(
            name=name, agent=agent, path=f"/{name}", repository_id="11" * 16, encrypted=False, slots=slots
        )  # fmt: skip
        stocked.repositories.add(entry)
    for task, also in ((1, "near"), (2, "near"), (3, "far"), (4, "far")):
        ledger.request(one, task, wish("b", also=(also,)))
    state = ledger.poll(one)
    assert [grant.task for grant in state.grants] == [1, 3]
    assert [wait.reason.partition(",")[0] for wait in state.waits] == [
        "waiting for a slot on repository near",
        "waiting for a slot on repository host b",
    ]
    assert state.grants[0] == SlotGrant(1, "b", "main")
    with pytest.raises(NotFound):
        ledger.request(one, 5, wish("b", also=("nowhere",)))


def test_repository_and_host_limits_hold_too(ledger: SlotLedger, stocked: Catalog, one: int) -> None:
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("b"), proxy_slots=9))
    stocked.repositories.update(msgspec.structs.replace(stocked.repositories.get("main"), slots=1))
    for task in (1, 2):
        ledger.request(one, task, wish("b"))
    assert [wait.reason for wait in ledger.poll(one).waits] == ["waiting for a slot on repository main, next in line"]
    stocked.repositories.update(msgspec.structs.replace(stocked.repositories.get("main"), slots=5))
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("a"), repository_slots=1))
    assert [wait.reason for wait in ledger.poll(one).waits] == ["waiting for a slot on repository host a, next in line"]


def test_a_disabled_proxy_takes_nothing_new_but_keeps_what_runs(ledger: SlotLedger, stocked: Catalog, one: int) -> None:
    ledger.request(one, 1, wish("b"))
    held = ledger.poll(one).grants
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("b"), enabled=False))
    ledger.request(one, 2, wish("b"))
    state = ledger.poll(one)
    assert state.grants == held
    assert state.waits[0].reason == "no slot on proxy b: disabled or removed"


def test_what_is_polled_or_renewed_does_not_lapse(ledger: SlotLedger, one: int, two: int, clock) -> None:
    ledger.request(one, 1, wish("b"))
    ledger.request(two, 1, wish("b"))
    ledger.poll(one)
    for _ in range(5):
        clock.pass_time(40)
        assert ledger.poll(two).grants == ()
        assert ledger.renew(one) == (1,)
    for _ in range(6):
        clock.pass_time(10)
        state = ledger.poll(two)
    assert state.grants == (SlotGrant(1, "b", "main"),)
    assert ledger.renew(one) == ()  # it learns that its slot is gone
    assert ledger.poll(one) == msgspec.structs.replace(ledger.poll(one), grants=(), waits=())


@pytest.mark.parametrize("leap_s", [61, 3600, 1e9, -61, -3600, -1e9])
def test_a_clock_that_leaps_takes_no_slot_from_the_living_and_leaves_none_to_the_dead(
    ledger: SlotLedger, one: int, two: int, clock, leap_s: float
) -> None:
    """Whoever looks first after the leap must not take what others have had no time to renew."""
    ledger.request(one, 1, wish("b"))
    ledger.request(two, 1, wish("b"))
    ledger.poll(one)
    ledger.poll(two)
    clock.pass_time(leap_s)
    for _ in range(12):
        assert ledger.poll(two).grants == ()
        clock.pass_time(10)
        assert ledger.renew(one) == (1,)
    clock.pass_time(leap_s)
    looks = 0
    while not ledger.poll(two).grants:  # the first one is dead now
        clock.pass_time(10)
        looks += 1
        assert looks <= 7, "its slot lasts longer than a lease"


def test_a_second_request_of_a_task_replaces_the_first(ledger: SlotLedger, one: int) -> None:
    ledger.request(one, 1, wish("b"))
    ledger.poll(one)
    ledger.request(one, 1, wish("a"))
    assert ledger.poll(one).grants == (SlotGrant(1, "a", "main"),)


def test_ending_a_session_frees_its_slots(ledger: SlotLedger, stocked: Catalog, one: int, two: int) -> None:
    ledger.request(one, 1, wish("b"))
    ledger.request(two, 1, wish("b"))
    ledger.poll(one)
    stocked.sessions.end(one, SessionResult.SUCCESS)
    assert ledger.poll(two).grants == (SlotGrant(1, "b", "main"),)


def test_a_request_that_can_never_be_served_is_refused(ledger: SlotLedger, one: int) -> None:
    with pytest.raises(NotFound, match="repository"):
        ledger.request(one, 1, wish("a", repository="mian"))
    with pytest.raises(UsageError, match="role proxy"):
        ledger.request(one, 1, wish())
    ledger.release(one, 1)
    assert ledger.renew(one) == ()
