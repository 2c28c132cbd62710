"""`holdfast init`."""

from __future__ import annotations

import click

from holdfast_agent.errors import AlreadyExists, Denied

from .app import App, pass_app
from .commands import Command


@click.command(cls=Command, examples=("holdfast init", "holdfast --config ./manager.toml init"))
@pass_app
def init(app: App) -> None:
    """Make the data directory, the configuration database and the manager's keys.

    May be repeated: what is there is kept. Prints the public key that agents must admit.
    """
    made = _make_catalogue(app)
    public_key = _keys(app)
    settings = app.settings
    document = {"data_dir": str(settings.home), "public_key": public_key, "created": made}
    app.out.result(document, lambda: _told(str(settings.home), public_key, made))


def _make_catalogue(app: App) -> bool:
    from holdfast_manager.catalog import Catalog

    try:
        Catalog.create(app.settings).close()
    except AlreadyExists:
        app.catalog.agents.list()  # opens it, which tells at once if it cannot be used
        return False
    return True


def _keys(app: App) -> str:
    from holdfast_agent.channel.authentication import KeyPair

    file = app.settings.identity_file
    if not file.exists():
        try:
            KeyPair.generate().save(file)
        except FileExistsError:
            app.out.note(f"{file} was made by somebody else just now; it is kept")
        except OSError as error:
            raise Denied(reason=f"{file} cannot be written: {error.strerror}") from error
    return app.keys.public


def _told(home: str, public_key: str, made: bool) -> str:
    first = f"Made {home}" if made else f"{home} is there already; nothing was changed"
    return (
        f"{first}\n\n"
        f"Public key of this manager:\n  {public_key}\n\n"
        "Next, on every proxy and repository host:\n"
        f"  holdfast-agent init\n  holdfast-agent authorize '{public_key}'\n"
        "then here, with the key that `holdfast-agent show` prints there:\n"
        "  holdfast agent add NAME HOST:8430 'KEY'\n\n"
        f"Keep a copy of {home} in a safe place: without its keys nobody can read sealed secrets."
    )
