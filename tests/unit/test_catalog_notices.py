"""Who is to hear of a session's end is written down with the end, taken by one at a time, and tried for a day."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.notices import CLAIM_S, GIVE_UP_S, pause_after
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.tables import sessions
from holdfast_manager.catalog.values import SessionKind, SessionResult
from holdfast_manager.settings import ManagerSettings, NotifierSettings

pytestmark = pytest.mark.both_databases
MAIL = NotifierSettings(plugin="smtp")
ALL = tuple(result.value for result in SessionResult if result is not SessionResult.NONE)


@pytest.fixture
def telling(stocked: Catalog, manager_settings: ManagerSettings, clock) -> Iterator[Catalog]:
    """The catalogue of a manager with two notifiers."""
    notifiers = {"mail": MAIL, "log": NotifierSettings(plugin="syslog", results=ALL)}
    with Catalog.open(msgspec.structs.replace(manager_settings, notifiers=notifiers), clock) as opened:
        yield opened


def ended(catalog: Catalog, result: SessionResult = SessionResult.FAILED) -> int:
    return catalog.sessions.end(catalog.sessions.begin_job("web").id, result).id


def waiting(catalog: Catalog) -> set[tuple[int, str]]:
    return {(entry.session, entry.notifier) for entry in catalog.notices.list(open_only=True)}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, {("backup", "web", "failed"), ("backup", "web2", "warning"), ("restore", "", "partial")}),
        ({"results": ("success",)}, {("backup", "web", "success")}),
        ({"kinds": ("restore",)}, {("restore", "", "partial")}),
        ({"jobs": ("web",)}, {("backup", "web", "failed")}),
        ({"jobs": ("*",)}, {("backup", "web", "failed"), ("backup", "web2", "warning")}),
        ({"jobs": ("db*",)}, set()),
    ],
)
def test_who_wants_to_hear_of_what(settings: dict[str, object], told: set[tuple[str, str, str]]) -> None:
    notifier = msgspec.convert({"plugin": "smtp", **settings}, NotifierSettings)
    happened = {
        ("backup", "web", "success"), ("backup", "web", "failed"), ("backup", "web2", "warning"),
        ("restore", "", "partial"), ("backup", "web", "cancelled"),
    }  # fmt: skip
    assert {each for each in happened if notifier.wants(*each)} == told


def test_a_configuration_knows_all_kinds_and_results() -> None:
    hints = {field.name: field.type for field in msgspec.structs.fields(NotifierSettings)}
    assert set(get_args(get_args(hints["kinds"])[0])) == {kind.value for kind in SessionKind}
    assert set(get_args(get_args(hints["results"])[0])) == set(ALL)


def test_notices_come_with_the_end_once_whoever_ends_it(telling: Catalog, stocked: Catalog) -> None:
    first = ended(telling)
    telling.sessions.end(first, SessionResult.SUCCESS)
    second = ended(telling, SessionResult.SUCCESS)
    third = telling.sessions.begin_job("web").id
    dead = msgspec.structs.replace(ProcessIdentity.current(), start_ticks=1)
    with telling.database.writing() as connection:
        row = {"process": msgspec.to_builtins(dead), "state": "running"}
        connection.execute(sessions.update().where(sessions.c.id == third).values(row))
    assert [entry.id for entry in telling.sessions.reap_dead()] == [third]
    assert waiting(telling) == {(first, "mail"), (first, "log"), (second, "log"), (third, "mail"), (third, "log")}
    ended(stocked)  # a manager without notifiers
    assert len(waiting(telling)) == 5


def test_a_notice_is_taken_by_one_and_comes_back_when_that_dies(telling: Catalog, clock) -> None:
    session = ended(telling)
    taken = [telling.notices.claim(), telling.notices.claim()]
    assert {entry.notifier for entry in taken if entry} == {"mail", "log"}
    assert telling.notices.claim() is None
    assert not telling.notices.any_due()
    telling.notices.delivered(next(entry.id for entry in taken if entry and entry.notifier == "log"))
    clock.pass_time(CLAIM_S)
    again = telling.notices.claim()
    assert again is not None
    assert (again.session, again.notifier, again.attempts) == (session, "mail", 2)
    telling.notices.delivered(again.id)
    clock.pass_time(GIVE_UP_S)
    assert not telling.notices.any_due()
    assert {(entry.notifier, entry.due, entry.last_error) for entry in telling.notices.list(session)} == {
        ("mail", None, ""), ("log", None, ""),
    }  # fmt: skip


def test_it_is_tried_more_and_more_seldom_for_a_day(telling: Catalog, clock) -> None:
    assert [pause_after(number) for number in (1, 2, 3, 4, 99)] == [60, 240, 960, 3600, 3600]
    began = clock.now
    ended(telling)
    attempts = 0
    while clock.now < began + 2 * GIVE_UP_S:
        while (entry := telling.notices.claim()) is not None:
            if entry.notifier == "log":
                telling.notices.delivered(entry.id)
                continue
            attempts += 1
            assert entry.attempts == attempts
            telling.notices.failed(entry, "connection refused", retryable=True)
            last = clock.now
        clock.pass_time(60)
    assert GIVE_UP_S <= last - began <= GIVE_UP_S + 3600
    assert attempts < 40
    (mail,) = [entry for entry in telling.notices.list() if entry.notifier == "mail"]
    assert (mail.due, mail.delivered, mail.last_error) == (None, None, "connection refused")


def test_what_is_refused_is_not_tried_again(telling: Catalog, clock) -> None:
    ended(telling)
    while (entry := telling.notices.claim()) is not None:
        telling.notices.failed(entry, "no such mailbox", retryable=False)
    clock.pass_time(GIVE_UP_S)
    assert not telling.notices.any_due()


def test_notices_of_others_are_left_to_them(telling: Catalog, manager_settings: ManagerSettings, clock) -> None:
    ended(telling)
    with Catalog.open(msgspec.structs.replace(manager_settings, notifiers={"mail": MAIL}), clock) as other:
        taken = other.notices.claim()
        assert taken is not None
        assert taken.notifier == "mail"
        assert other.notices.claim() is None
    assert telling.notices.claim() is not None


def test_notices_go_with_their_session(telling: Catalog) -> None:
    telling.sessions.remove(ended(telling))
    assert telling.notices.list() == ()
