"""`holdfast repository heal`."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_manager.catalog.values import SessionKind

from .app import App, pass_app
from .commands import Command
from .running import detach_option, run_session


@click.command(cls=Command, examples=("holdfast repository heal main --from offsite",))
@click.argument("name")
@click.option("--from", "origin", required=True, metavar="OTHER", help="A repository with copies, or the originals.")
@click.option("--proxy", default="", help="The agent between the two. Default: any with the role.")
@detach_option
@pass_app
def heal(app: App, name: str, origin: str, proxy: str, detach: bool) -> int:
    """Store again what restore points of a repository have lost, from their copies in another.

    What is missing or in quarantine is fetched from points with the same content (copies, originals, or of the same VM
    and time), and is only taken if its id proves it. Nothing is deleted. What only decoding shows is found by
    `holdfast repository verify NAME --level 2` before. Exits with 14 when something is still lost; the report names it.
    """
    from holdfast_manager.sessions.requests import HealRequest

    if origin == name:
        raise UsageError(reason="--from names another repository")
    app.catalog.repositories.get(name)
    app.catalog.repositories.get(origin)
    if proxy:
        app.catalog.agents.get(proxy)
    request = HealRequest(repository=name, origin=origin, proxy=proxy)
    begin = partial(app.catalog.sessions.begin, SessionKind.HEAL, msgspec.to_builtins(request))
    return run_session(app, begin, detach, strict=False)
