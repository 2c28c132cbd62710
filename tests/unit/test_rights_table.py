"""Who may do what: every command of the command line is in the table, and every role is decided by it."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from holdfast_agent.errors import Denied
from holdfast_manager.cli.app import App
from holdfast_manager.cli.commands import Command, path_of
from holdfast_manager.cli.root import root
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.commands import COMMANDS, UNKNOWN, Rule, rule_of
from holdfast_manager.rights.roles import ROLES, Right, Role
from holdfast_manager.rights.values import UserEntry


def leaves(context: click.Context) -> Iterator[click.Context]:
    """A context for each command that does something."""
    if not isinstance(context.command, click.Group):
        yield context
        return
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        yield from leaves(click.Context(command, parent=context, info_name=name))


def all_commands() -> dict[tuple[str, ...], click.Command]:
    return {path_of(each): each.command for each in leaves(click.Context(root, info_name="holdfast", obj=App()))}


def test_every_rule_is_one_of_a_command() -> None:
    """What a new command lacks is told by :mod:`test_new_commands`."""
    assert set(COMMANDS) - set(all_commands()) == set(), "there are no such commands any more"


def test_every_command_asks_the_table() -> None:
    """What is no ``Command`` would run unasked and unrecorded."""
    assert [path for path, command in all_commands().items() if not isinstance(command, Command)] == []


def test_files_that_a_command_makes_are_parameters_of_it() -> None:
    for path, command in all_commands().items():
        files = {each.name for each in command.params if isinstance(each.type, click.Path)}
        assert rule_of(path).writes <= files, path


def test_whoever_only_looks_changes_nothing() -> None:
    lookers = {Right.VIEW}
    assert [path for path, rule in COMMANDS.items() if rule.changes and rule.right in lookers] == []


@pytest.mark.parametrize("role", Role)
def test_every_role_and_every_command_is_decided_by_the_table(role: Role) -> None:
    actor = Actor.of(UserEntry(name="somebody", roles=(role,)), "api 10.0.0.7")
    for path, rule in COMMANDS.items():
        if rule.right in ROLES[role]:
            actor.require(rule.right, " ".join(path))
        else:
            with pytest.raises(Denied, match="administrator"):
                actor.require(rule.right, " ".join(path))


# By hand, and not computed from the table: a slip there shows as a difference from what was meant.
@pytest.mark.parametrize(
    ("command", "able"),
    [
        ("job list", "administrator operator restore-operator viewer"),
        ("job run", "administrator operator"),
        ("session stop", "administrator operator"),
        ("restore vm", "administrator restore-operator"),
        ("point ls", "administrator restore-operator"),
        ("export start", "administrator restore-operator"),
        ("prune", "administrator"),
        ("unprotect", "administrator"),
        ("repository remove", "administrator"),
        ("job edit", "administrator"),
        ("apply", "administrator"),
        ("key paper", "administrator"),
        ("config backup", "administrator"),
        ("user add", "administrator"),
        ("audit list", "administrator"),
    ],
)
def test_what_was_meant(command: str, able: str) -> None:
    right = rule_of(tuple(command.split())).right
    assert {role.value for role in Role if right in ROLES[role]} == set(able.split())


def test_a_command_that_nobody_thought_of_is_kept_to_the_host() -> None:
    assert rule_of(("brand", "new")) is UNKNOWN
    assert Rule(Right.SECURE, changes=True, stays=UNKNOWN.stays) == UNKNOWN
    assert UNKNOWN.stays


def test_roles_add_up_and_who_is_disabled_has_none() -> None:
    both = UserEntry(name="b", roles=(Role.OPERATOR, Role.RESTORE_OPERATOR))
    assert both.rights == {Right.VIEW, Right.OPERATE, Right.RESTORE}
    assert UserEntry(name="b", roles=(Role.ADMINISTRATOR,), enabled=False).rights == frozenset()
