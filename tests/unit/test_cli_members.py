"""A command that is given a group: one member after the other, one document, and the worst exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import msgspec
import pytest

from holdfast_agent.errors import Locked, NotFound
from holdfast_agent.model.ids import new_sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import RepositoryGroup
from holdfast_manager.cli.app import App, OutputForm
from holdfast_manager.cli.members import in_each, in_turn

MEMBERS = ("far", "main", "old")


@pytest.fixture
def app(stocked: Catalog, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """With the group `pool` of three, for programs."""
    main = stocked.repositories.get("main")
    for name in set(MEMBERS) - {"main"}:
        fresh = msgspec.structs.replace(main, name=name, path=f"/srv/{name}", repository_id=new_sid())
        stocked.repositories.add(fresh, None)
    stocked.groups.add(RepositoryGroup(name="pool", members=MEMBERS))
    made = App()
    made.output = OutputForm.JSON
    made.__dict__["catalog"] = stocked
    yield made
    made.close()


def doing(app: App, outcomes: dict[str, int | Exception]) -> Callable[[str], int]:
    def do(member: str) -> int:
        outcome = outcomes.get(member, 0)
        if isinstance(outcome, Exception):
            raise outcome
        app.out.result({"did": member}, f"did {member}")
        return outcome

    return do


def test_a_member_that_fails_keeps_no_other_from_its_turn(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    failing = doing(app, {"far": Locked(what="far", holder="session 7"), "main": 4})
    assert in_each(app, "pool", failing) == Locked.exit_code
    whole = json.loads(capsys.readouterr().out)
    far, main, old = whole["members"]
    assert (far["repository"], far["exit_code"], far["error"]["code"]) == ("far", Locked.exit_code, "locked")
    assert main == {"repository": "main", "exit_code": 4, "result": {"did": "main"}}
    assert old["exit_code"] == 0


def test_people_read_each_member_and_who_was_not_well(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.output = OutputForm.TEXT
    in_each(app, "pool", doing(app, {"far": Locked(what="far", holder="session 7")}))
    told = capsys.readouterr()
    assert told.out == "did main\ndid old\nGroup pool: 2 of 3 members without fault; not far\n"
    assert "Error:" in told.err
    assert "session 7" in told.err


def test_a_stop_ends_the_round_and_a_repository_is_told_as_ever(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_each(app, "pool", doing(app, {"far": 130})) == 130
    assert [each["repository"] for each in json.loads(capsys.readouterr().out)["members"]] == ["far"]
    assert in_each(app, "main", doing(app, {})) == 0
    assert json.loads(capsys.readouterr().out) == {"did": "main"}
    with pytest.raises(NotFound):
        in_each(app, "poll", doing(app, {}))


def test_things_done_in_turn_end_with_the_first_that_goes_well(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    do = doing(app, {"far": 14})
    assert in_turn(app, "heals", {"repository": "x"}, [lambda: do("far"), lambda: do("main"), lambda: do("old")]) == 0
    assert json.loads(capsys.readouterr().out) == {"repository": "x", "heals": [{"did": "far"}, {"did": "main"}]}
