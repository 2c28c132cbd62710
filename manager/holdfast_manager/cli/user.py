"""`holdfast user …`."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_manager.reports.table import table
from holdfast_manager.reports.times import moment
from holdfast_manager.rights.roles import Right, Role, rights_of
from holdfast_manager.rights.values import UserEntry

from .app import App, pass_app
from .approving import require_approval
from .asking import new_password
from .commands import Group

_ROLE = click.Choice([role.value for role in Role])
_DAY_S = 86400.0

_password = click.option("--password", is_flag=True, help="With a password: asked for, or a line of standard input.")
_password_file = click.option(
    "--password-file", type=click.Path(path_type=Path), metavar="FILE", help="The password, in a file (mode 0600)."
)


@click.group(cls=Group)
def user() -> None:
    """Users: who may do what on a manager that several people share.

    An administrator may do everything; an operator runs jobs and looks after repositories; a restore-operator
    restores; a viewer sees. Whoever owns the manager's files on its own host needs no user, and may do everything.
    """


@user.command(
    examples=(
        "holdfast user add alice --role administrator --key 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'",
        "holdfast user add bob --role operator --role restore-operator --password",
    )
)
@click.argument("name")
@click.option("--role", "roles", type=_ROLE, multiple=True, required=True, help="Repeatable: the rights add up.")
@click.option("--key", help="The public key that `holdfast remote add` prints where the user works.")
@_password
@_password_file
@pass_app
def add(
    app: App, name: str, roles: tuple[str, ...], key: str | None, password: bool, password_file: Path | None
) -> None:
    """Add a user.

    By the key the command line is known from other hosts; by the password one logs in to pages. Both may be left out
    for now.
    """
    given = new_password(app, password_file) if password or password_file is not None else None
    wished = UserEntry(name=name, roles=_roles(roles), public_key=None if key is None else _checked(key))
    require_approval(app, [_told(wished)])
    entry = app.catalog.users.add(wished, given)
    app.out.result({"user": entry}, f"Added user {name}: {', '.join(entry.roles)}")


@user.command(
    examples=("holdfast user edit bob --role viewer", "holdfast user edit bob --disable --revoke-tokens")
)  # fmt: skip
@click.argument("name")
@click.option("--role", "roles", type=_ROLE, multiple=True, help="Repeatable: these take the place of all before.")
@click.option("--key", help="The public key of another key pair; the one before no longer counts.")
@click.option("--no-key", is_flag=True, help="No key pair any more.")
@_password
@_password_file
@click.option("--no-password", is_flag=True, help="No password any more.")
@click.option(
    "--enable/--disable", "enabled", default=None, help="Let the user in again, or shut the user out at once."
)
@click.option("--revoke-tokens", is_flag=True, help="Make all tokens of the user worthless.")
@pass_app
def edit(
    app: App,
    name: str,
    roles: tuple[str, ...],
    key: str | None,
    no_key: bool,
    password: bool,
    password_file: Path | None,
    no_password: bool,
    enabled: bool | None,
    revoke_tokens: bool,
) -> None:
    """Change a user; what is not named stays. It counts at once, also for what the user does at the moment."""
    asks = password or password_file is not None
    if (key is not None and no_key) or (asks and no_password):
        raise UsageError(reason="an option and its opposite were given")
    entry = app.catalog.users.get(name)
    changed = msgspec.structs.replace(
        entry,
        roles=_roles(roles) or entry.roles,
        public_key=None if no_key else entry.public_key if key is None else _checked(key),
        enabled=entry.enabled if enabled is None else enabled,
    )
    if changed == entry and not (asks or no_password or revoke_tokens):
        raise UsageError(reason="nothing to change; see `holdfast user edit --help`")
    given = "" if no_password else new_password(app, password_file) if asks else None
    require_approval(app, _powers(entry, changed, proof=asks, touched=asks or no_password))
    app.catalog.users.update(changed, given)
    if revoke_tokens:
        app.catalog.users.revoke_tokens(name)
    app.out.result({"user": app.catalog.users.get(name)}, f"Changed user {name}")


@user.command("list", examples=("holdfast user list",))
@pass_app
def list_(app: App) -> None:
    """All users, and what they can prove themselves by."""
    entries = app.catalog.users.list()
    tokens = app.catalog.users.tokens()
    rows = [
        (
            entry.name,
            ", ".join(entry.roles),
            "yes" if entry.enabled else "no",
            "yes" if entry.public_key else "-",
            "yes" if entry.has_password else "-",
            str(sum(token.user == entry.name for token in tokens)),
            moment(entry.created),
        )
        for entry in entries
    ]
    heads = ("user", "roles", "enabled", "key", "password", "tokens", "since")
    text = table(heads, rows, right=("tokens",)) if rows else "No users"
    app.out.result({"users": entries, "tokens": tokens}, text)


@user.command(examples=("holdfast user remove bob",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Remove a user, with all tokens. What the audit log tells of the user stays."""
    require_approval(app, [f"user {app.catalog.users.get(name).name}"])
    app.catalog.users.remove(name)
    app.out.result({"removed": name}, f"Removed user {name}")


@user.command(examples=("holdfast user token grafana --label dashboard --days 365",))
@click.argument("name")
@click.option("--label", default="", metavar="TEXT", help="What it is for.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it counts. Default: until it is revoked.")
@pass_app
def token(app: App, name: str, label: str, days: int | None) -> None:
    """Make a token, by which a program is known as this user. It is shown now and never again."""
    require_approval(app, [_told(app.catalog.users.get(name))])
    expires = None if days is None else time.time() + days * _DAY_S
    entry, text = app.catalog.users.add_token(name, label, expires)
    app.out.result({"token": text, "entry": entry}, text)


def _powers(old: UserEntry, new: UserEntry, *, proof: bool, touched: bool) -> list[str]:
    """What takes approval: rights that are new, another proof of who one is (``proof``: a password), and whatever
    touches an administrator (``touched``: more than the two show), but for shutting out."""
    gains = bool(new.rights - old.rights)
    proves = proof or new.public_key not in (None, old.public_key)
    other = touched or msgspec.structs.replace(new, enabled=old.enabled) != old
    able = any(Right.SECURE in rights_of(each.roles) for each in (old, new))
    return [_told(old), _told(new)] if gains or proves or (able and other) else []


def _told(entry: UserEntry) -> str:
    return f"user {entry.name}: {', '.join(entry.roles)}, key {entry.public_key or '-'}"


def _roles(names: tuple[str, ...]) -> tuple[Role, ...]:
    return tuple(Role(name) for name in dict.fromkeys(names))


def _checked(key: str) -> str:
    from holdfast_agent.channel.authentication import check_public_key

    return check_public_key(key)
