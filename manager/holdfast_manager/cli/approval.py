"""`holdfast approval …`."""

from __future__ import annotations

import click

from holdfast_agent.errors import UsageError
from holdfast_manager.reports.table import printable
from holdfast_manager.reports.times import moment
from holdfast_manager.rights.approval import ApprovalEntry
from holdfast_manager.rights.roles import Right

from .app import App, pass_app
from .approving import require_approval
from .commands import Group

_number = click.argument("number", type=click.IntRange(min=1))


@click.group(cls=Group)
def approval() -> None:
    """Four eyes: what one person asks for, another one grants.

    Where approvals are required, a command that would make restore points go, end backups for good, touch a key or give
    somebody rights is not carried out at first: it makes a request. Once another administrator has granted that, the
    same command is carried out, once, within a day. docs/reference/approvals.md has every command.
    """


@approval.command("list", examples=("holdfast approval list", "holdfast approval list --all"))
@click.option("--all", "everything", is_flag=True, help="Also those that are decided, used or expired.")
@pass_app
def list_(app: App, everything: bool) -> None:
    """Requests that wait, and exactly what each would do."""
    entries = app.catalog.approvals.list(everything)
    required = app.catalog.approvals.required()
    heading = "Approvals are required" if required else "Approvals are not required (`holdfast approval require`)"
    text = "\n\n".join([heading, *map(_told, entries)])
    app.out.result({"required": required, "requests": entries}, text)


@approval.command(examples=("holdfast approval grant 7",))
@_number
@pass_app
def grant(app: App, number: int) -> None:
    """Grant somebody else's request. Who asked gives the command again, within a day."""
    entry = app.catalog.approvals.grant(number, app.actor)
    app.out.result({"request": entry}, f"Granted request {number} of {entry.asker}: {entry.action}")


@approval.command(examples=("holdfast approval refuse 7",))
@_number
@pass_app
def refuse(app: App, number: int) -> None:
    """Refuse a request, or take one's own back."""
    entry = app.catalog.approvals.refuse(number, app.actor)
    app.out.result({"request": entry}, f"Refused request {number} of {entry.asker}: {entry.action}")


@approval.command(examples=("holdfast approval require",))
@pass_app
def require(app: App) -> None:
    """Require approvals from now on. Switching that off again takes one."""
    able = [each for each in app.catalog.users.list() if Right.SECURE in each.rights and each.name != app.actor.name]
    if not any(each.public_key or each.has_password for each in able):
        reason = "nobody else could grant anything: there is no other administrator with a key or a password"
        raise UsageError(reason=f"{reason}; see `holdfast user add --help`")
    app.catalog.approvals.require(app.actor)
    app.out.result({"required": True}, f"Approvals are required now; {', '.join(each.name for each in able)} may grant")


@approval.command(examples=("holdfast approval waive",))
@pass_app
def waive(app: App) -> None:
    """Require approvals no longer. This takes one itself."""
    require_approval(app, ["the rule of four eyes itself"])
    app.catalog.approvals.waive()
    app.out.result({"required": False}, "Approvals are not required any more")


def _told(entry: ApprovalEntry) -> str:
    """A request, and a line for each thing that it would act on: who grants it must see all of them."""
    asker = f"{entry.asker} ({'on this host' if entry.asker_local else 'through the API'})"
    decided = f" by {entry.decider}" if entry.decider else ""
    head = f"Request {entry.id}: {entry.action}, for {asker}"
    state = f"  {entry.state.value}{decided}, until {moment(entry.expires)}"
    return "\n".join([head, state, *(f"    {printable(target)}" for target in entry.targets)])
