"""Every command of both programs, as the programs themselves have them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from holdfast_agent.cli.main import cli as agent_root
from holdfast_manager.cli.app import App
from holdfast_manager.cli.root import root as manager_root

PROGRAMS = {"holdfast": manager_root, "holdfast-agent": agent_root}


def every_command() -> Iterator[str]:
    """The whole name of each command that does something, such as ``holdfast job list``."""
    for program, command in PROGRAMS.items():
        yield from _below(click.Context(command, info_name=program, obj=App()), program)


def _below(context: click.Context, path: str) -> Iterator[str]:
    command = context.command
    if not isinstance(command, click.Group):
        yield path
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None, f"{path} lists {name}, which it does not have"
        yield from _below(click.Context(inner, info_name=name, parent=context), f"{path} {name}")
