"""`holdfast repository heal`."""

from __future__ import annotations

from functools import partial

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_manager.catalog.values import SessionKind

from .app import App, pass_app
from .commands import Command
from .members import in_each, in_turn, repository_or_group
from .running import detach_option, run_session


@click.command(
    cls=Command,
    examples=("holdfast repository heal main --from offsite", "holdfast repository heal pool --from offsite"),
)
@repository_or_group
@click.option(
    "--from", "origin", required=True, metavar="OTHER", help="A repository or group with copies, or the originals."
)
@click.option("--proxy", default="", help="The agent between the two. Default: any with the role.")
@detach_option
@pass_app
def heal(app: App, name: str, origin: str, proxy: str, detach: bool) -> int:
    """Store again what restore points of a repository have lost, from their copies in another.

    What is missing or in quarantine is fetched from points with the same content (copies, originals, or of the same VM
    and time), and is only taken if its id proves it. Nothing is deleted. What only decoding shows is found by
    `holdfast repository verify NAME --level 2` before. Exits with 14 when something is still lost; the report names it.
    Of a group as OTHER the members are asked one after another, until nothing is lost.
    """
    from holdfast_manager.sessions.requests import HealRequest

    origins = [entry.name for entry in app.catalog.groups.behind(origin)]
    if origins == [name]:
        raise UsageError(reason="--from names another repository")
    if proxy:
        app.catalog.agents.get(proxy)

    def heal_from(other: str, member: str) -> int:
        request = msgspec.to_builtins(HealRequest(repository=member, origin=other, proxy=proxy))
        return run_session(app, partial(app.catalog.sessions.begin, SessionKind.HEAL, request), detach, strict=False)

    def heal_member(member: str) -> int:
        others = [partial(heal_from, other, member) for other in origins if other != member]
        if len(others) == 1:
            return others[0]()
        if detach:
            raise UsageError(reason=f"{origin} is a group, whose members are asked one after another: not by --detach")
        return in_turn(app, "heals", {"repository": member}, others)

    return in_each(app, name, heal_member)
