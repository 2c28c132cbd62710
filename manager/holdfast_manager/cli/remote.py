"""`holdfast remote …`."""

from __future__ import annotations

import click

from holdfast_manager.api import contexts
from holdfast_manager.reports.table import table

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def remote() -> None:
    """Managers on other hosts, to work with from here.

    `holdfast --manager NAME …` (or $HOLDFAST_MANAGER) runs nearly every command there, as the user whom that manager
    knows by a key that is made here.
    """


@remote.command(examples=("holdfast remote add office backup.example.org 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'",))
@click.argument("name")
@click.argument("place", metavar="HOST[:PORT]")
@click.argument("key")
@pass_app
def add(app: App, name: str, place: str, key: str) -> None:
    """Write down a manager, and make a key pair for it.

    KEY is the manager's public key, as `holdfast config key` prints it there. An administrator admits the key that
    this prints: `holdfast user add YOU --role ROLE --key KEY`.
    """
    context = contexts.add(name, place, key)
    document = {"name": name, "endpoint": context.place.endpoint, "public_key": context.keys.public}
    app.out.result(document, context.keys.public)
    app.out.note(f"An administrator admits this key: holdfast user add NAME --role ROLE --key '{context.keys.public}'")


@remote.command("list", examples=("holdfast remote list",))
@pass_app
def list_(app: App) -> None:
    """The managers that are written down here, and by which of your keys each would know you."""
    known = [contexts.load(name) for name in contexts.names()]
    rows = [(each.name, each.place.endpoint, each.keys.public) for each in known]
    document = [{"name": name, "endpoint": endpoint, "public_key": key} for name, endpoint, key in rows]
    text = table(("manager", "endpoint", "your key"), rows) if rows else "No managers on other hosts"
    app.out.result({"managers": document}, text)


@remote.command(examples=("holdfast remote check office",))
@click.argument("name")
@pass_app
def check(app: App, name: str) -> None:
    """Connect to a manager, and tell as whom it knows you."""
    from holdfast_manager.api.client import ApiClient

    with ApiClient(contexts.load(name), lambda push: None) as client:
        greeted = client.greeted
    document = {"user": greeted.user, "roles": greeted.roles, "software": greeted.software}
    app.out.result(
        document, f"{name}: Holdfast {greeted.software}; you are {greeted.user} ({', '.join(greeted.roles)})"
    )


@remote.command(examples=("holdfast remote remove office",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Forget a manager, and the key pair for it."""
    contexts.remove(name)
    app.out.result({"removed": name}, f"Removed manager {name}")
