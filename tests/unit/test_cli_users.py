"""`holdfast user`, `holdfast audit`, and that commands which change something are written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_manager.catalog import Catalog
from holdfast_manager.rights.roles import Role
from lab.command_line import Holdfast


def outcomes(catalog: Catalog) -> list[tuple[str, str, str]]:
    """The oldest first."""
    return [(each.action, each.target, each.outcome) for each in reversed(catalog.audit.list())]


def test_users_come_change_and_go(holdfast: Holdfast, stocked: Catalog, tmp_path: Path) -> None:
    key = KeyPair.generate().public
    assert holdfast("user", "add", "alice", "--role", "operator", "--role", "restore-operator", "--key", key).code == 0
    assert holdfast("user", "add", "bob", "--role", "viewer", "--password", stdin="a long password\n").code == 0
    assert stocked.users.login("bob", "a long password").roles == (Role.VIEWER,)
    secret = tmp_path / "secret"
    secret.write_text("another password\n")
    secret.chmod(0o600)
    assert holdfast("user", "edit", "bob", "--role", "operator", "--password-file", secret).code == 0
    assert stocked.users.login("bob", "another password").roles == (Role.OPERATOR,)
    token = holdfast("user", "token", "bob", "--label", "x", "--days", "3000").out.strip()
    assert stocked.users.by_token(token).name == "bob"
    assert holdfast("user", "edit", "bob", "--disable", "--revoke-tokens", "--no-password").code == 0
    listed = holdfast("user", "list", "--output", "json").json
    assert [(each["name"], each["enabled"], each["has_password"]) for each in listed["users"]] == [
        ("alice", True, False),
        ("bob", False, False),
    ]
    assert "operator, restore-operator" in holdfast("user", "list").out
    assert holdfast("user", "remove", "alice").code == 0
    assert holdfast("user", "remove", "alice").code == 10
    told = json.dumps([str(each) for each in stocked.audit.list()])
    assert not [secret for secret in (token, "a long password", "another password") if secret in told]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "x", "--role", "viewer", "--key", "nonsense"), "not a public key"),
        (("add", "x", "--role", "king"), "king"),
        (("add", "x"), "--role"),
        (("edit", "alice"), "nothing to change"),
        (("edit", "alice", "--no-key", "--key", "x"), "opposite"),
    ],
)
def test_wrong_usage_is_told(holdfast: Holdfast, stocked: Catalog, arguments: tuple[str, ...], told: str) -> None:
    holdfast("user", "add", "alice", "--role", "viewer")
    done = holdfast("user", *arguments)
    assert done.code == 2
    assert told in done.err


def test_what_changes_something_is_written_down_and_nothing_else(holdfast: Holdfast, stocked: Catalog) -> None:
    assert holdfast("job", "list").code == holdfast("session", "prune", "--dry-run").code == 0
    assert stocked.audit.list() == ()
    assert holdfast("job", "disable", "web").code == 0
    assert holdfast("job", "disable", "nobody").code == 10
    assert holdfast("job", "disable").code == 2  # it never came so far as to change anything
    assert outcomes(stocked) == [
        ("job disable", "web", "began"),
        ("job disable", "web", "done"),
        ("job disable", "nobody", "began"),
        ("job disable", "nobody", "not_found"),
    ]
    newest = stocked.audit.list()[-1]
    assert (newest.place.startswith("local"), newest.detail) == (True, "job disable web")


def test_the_log_is_listed_and_proved(holdfast: Holdfast, stocked: Catalog) -> None:
    assert holdfast("audit", "list").out == "No entries\n"
    holdfast("job", "disable", "web")
    listed = holdfast("audit", "list").out
    assert "job disable web" in listed
    assert "done (of 1)" in listed
    assert holdfast("audit", "list", "--actor", "nobody", "--since", "1d").out == "No entries\n"
    mark = holdfast("audit", "verify", "--output", "json").json["mark"]
    assert "is whole: 2 entries" in holdfast("audit", "verify", "--mark", mark).out
    assert holdfast("audit", "verify", "--mark", "nonsense").code == 2
    with stocked.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM audit WHERE number = 1")
    broken = holdfast("audit", "verify")
    assert (broken.code, "entries 1 to 1 are missing" in broken.err) == (14, True)
