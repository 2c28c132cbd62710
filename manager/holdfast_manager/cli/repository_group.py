"""`holdfast repository group …`, `repository seal` and `repository unseal`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
import msgspec

from holdfast_agent.errors import HoldfastError, UsageError
from holdfast_agent.model.units import format_size, parse_size
from holdfast_manager.catalog.rows import checked
from holdfast_manager.catalog.values import PlacingPolicy, RepositoryEntry, RepositoryGroup, SessionKind
from holdfast_manager.reports.table import facts, table

from .app import App, pass_app
from .approving import require_approval
from .commands import Command, Group
from .running import detach_option, run_session

_policy = click.option(
    "--policy", type=click.Choice([each.value for each in PlacingPolicy]),
    help="A VM's points stay with one member (locality, the default), or go where most space is free (capacity).",
)  # fmt: skip
_free_floor = click.option(
    "--free-floor", metavar="SIZE", help="A member with no more free space gets no points. Default: 1 GiB."
)
_description = click.option("--description", metavar="TEXT", help="For people.")


@click.group(cls=Group)
def group() -> None:
    """Groups of repositories that are one target for jobs."""


@group.command(
    examples=(
        "holdfast repository group create pool --member main --member second",
        "holdfast repository group create pool --member main --member second --policy capacity --free-floor '50 GiB'",
    )
)
@click.argument("name")
@click.option("--member", "members", multiple=True, required=True, metavar="REPOSITORY", help="Repeatable.")
@_policy
@_free_floor
@_description
@pass_app
def create(app: App, /, name: str, members: tuple[str, ...], **given: str | None) -> None:
    """Make a group; jobs then name it as their repository. A repository belongs to one group at most."""
    entry = _with(RepositoryGroup(name=name, members=tuple(dict.fromkeys(members))), given)
    app.catalog.groups.add(entry)
    text = f"Created group {name} of {', '.join(entry.members)}; `holdfast job edit JOB --repository {name}` uses it"
    app.out.result({"group": entry}, text)


@group.command(
    examples=(
        "holdfast repository group edit pool --add third",
        "holdfast repository group edit pool --drop main",
        "holdfast repository group edit pool --policy capacity",
    )
)
@click.argument("name")
@click.option("--add", "added", multiple=True, metavar="REPOSITORY", help="A further member (repeatable).")
@click.option("--drop", "dropped", multiple=True, metavar="REPOSITORY", help="No member any more (repeatable).")
@_policy
@_free_floor
@_description
@pass_app
def edit(app: App, /, name: str, added: tuple[str, ...], dropped: tuple[str, ...], **given: str | None) -> None:
    """Change a group; what is not named stays. The points of a member that is dropped stay where they are."""
    old = app.catalog.groups.get(name)
    for member in dropped:
        if member not in old.members:
            raise UsageError(reason=f"{member} is no member of {name}; those are {', '.join(old.members)}")
    if not added and not dropped and not any(given.values()):
        raise UsageError(reason="nothing to change; see `holdfast repository group edit --help`")
    members = tuple(each for each in dict.fromkeys((*old.members, *added)) if each not in dropped)
    entry = _with(msgspec.structs.replace(old, members=members), given)
    app.catalog.groups.update(entry)
    app.out.result({"group": entry}, f"Changed group {name}: {', '.join(entry.members)}")


@group.command("list", examples=("holdfast repository group list",))
@pass_app
def list_(app: App) -> None:
    """All groups."""
    groups = app.catalog.groups.list()
    app.out.result({"groups": groups}, lambda: _table(groups))


@group.command(examples=("holdfast repository group show pool",))
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """One group, and how its members are now."""
    entry = app.catalog.groups.get(name)
    members = [_member(app, each) for each in app.catalog.groups.behind(name)]
    head = facts(
        [
            ("Group", name),
            ("Policy", entry.policy.value),
            ("Free floor", format_size(entry.free_floor_bytes)),
            *([("Description", entry.description)] if entry.description else []),
        ]
    )
    rows = [(each["name"], each["agent"], each["state"], str(each["points"]), _space(each)) for each in members]
    cells = table(("member", "agent", "state", "points", "free"), rows, right=("points", "free"), fold=("state",))
    app.out.result({"group": entry, "members": members}, lambda: f"{head}\n\n{cells}")


@group.command(examples=("holdfast repository group remove pool",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Remove a group. Its repositories and their restore points stay."""
    app.catalog.groups.remove(name)
    app.out.result({"removed": name}, f"Removed group {name}; its repositories stay")


@click.command(cls=Command, examples=("holdfast repository seal main",))
@click.argument("name")
@pass_app
def seal(app: App, name: str) -> None:
    """Have a repository take no new restore points. It is read as before, and retention goes on.

    In a group the VMs go on elsewhere, with a first point there. A job that writes to this repository alone fails.
    """
    entry = app.catalog.repositories.set_sealed(name, True)
    app.out.result({"repository": entry}, f"Sealed {name}: it takes no new restore points")


@click.command(cls=Command, examples=("holdfast repository unseal main",))
@click.argument("name")
@pass_app
def unseal(app: App, name: str) -> None:
    """Have a sealed repository take restore points again."""
    entry = app.catalog.repositories.set_sealed(name, False)
    app.out.result({"repository": entry}, f"Unsealed {name}: it takes restore points again")


@click.command(
    cls=Command, examples=("holdfast repository evacuate main", "holdfast repository evacuate main --detach")
)
@click.argument("name")
@detach_option
@pass_app
def evacuate(app: App, name: str, detach: bool) -> int:
    """Move all restore points of a repository to the other members of its group.

    It is sealed. Each point is copied, read whole where it then is, protected as it was, and only then removed here.
    Stop or kill it whenever you like: the next one goes on. Exits with 3 when points had to stay; the log says why.
    """
    from holdfast_manager.sessions.requests import EvacuateRequest

    entry = app.catalog.repositories.get(name)
    if entry.member_of is None:
        raise UsageError(reason=f"{name} is in no group: there is no other member that its points could go to")
    require_approval(app, [f"restore points of repository {name}, which go to the rest of {entry.member_of}"])
    request = msgspec.to_builtins(EvacuateRequest(repository=name))
    return run_session(app, partial(app.catalog.sessions.begin, SessionKind.EVACUATE, request), detach, strict=False)


def _with(entry: RepositoryGroup, given: dict[str, str | None]) -> RepositoryGroup:
    """``entry`` with the options that were given. Raises ``ConfigInvalid`` or ``UsageError``."""
    policy, floor, description = given["policy"], given["free_floor"], given["description"]
    changed = msgspec.structs.replace(
        entry,
        policy=PlacingPolicy(policy) if policy else entry.policy,
        free_floor_bytes=int(parse_size(floor)) if floor else entry.free_floor_bytes,
        description=entry.description if description is None else description,
    )
    return checked(changed, "options")


def _member(app: App, entry: RepositoryEntry) -> dict[str, Any]:
    from holdfast_manager.enrolment import repositories

    agent = app.catalog.agents.get(entry.agent)
    state = "sealed" if entry.sealed else "open" if agent.enabled else "agent disabled"
    free = None
    try:
        free = repositories.facts_of(agent, entry.path, app.keys).free_bytes
    except HoldfastError as error:
        state = f"{state}, {error.text}"
    points = len(app.catalog.points.list(repository=entry.name, limit=1 << 30))
    return {"name": entry.name, "agent": entry.agent, "state": state, "points": points, "free_bytes": free}


def _space(member: dict[str, Any]) -> str:
    return "?" if member["free_bytes"] is None else format_size(member["free_bytes"])


def _table(groups: tuple[RepositoryGroup, ...]) -> str:
    if not groups:
        return "No groups yet; `holdfast repository group create` makes one"
    rows = [
        (each.name, ", ".join(each.members), each.policy.value, format_size(each.free_floor_bytes)) for each in groups
    ]
    return table(("group", "members", "policy", "free floor"), rows, right=("free floor",))
