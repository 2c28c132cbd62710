"""`holdfast init`."""

from __future__ import annotations

import click

from holdfast_agent.errors import AlreadyExists, Denied

from .app import App, pass_app
from .commands import Command


@click.command(cls=Command, examples=("holdfast init", "holdfast --config ./manager.toml init"))
@pass_app
def init(app: App) -> None:
    """Make the data directory, the configuration database and the manager's keys; then examine the set-up.

    May be repeated at any time: what is there is kept, and what is to be done next is told anew. Prints the public key
    that agents must admit; `holdfast config key` prints it alone.
    """
    made = _make_catalogue(app)
    public_key = _keys(app)
    home = str(app.settings.home)
    document = {"data_dir": home, "public_key": public_key, "created": made}
    app.out.result(document, lambda: f"{_told(home, public_key, made)}\n\n{_examined(app)}")


def _examined(app: App) -> str:
    from holdfast_manager.doctor import examine

    from .doctor import told

    return told(list(examine(app.settings, app.host)))


def _make_catalogue(app: App) -> bool:
    from holdfast_manager.catalog import Catalog

    app.expect_own_home()
    try:
        Catalog.create(app.settings).close()
        made = True
    except AlreadyExists:
        made = False
    app.catalog.agents.list()  # opens it, which tells at once if it cannot be used, and writes down who did this
    return made


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
        f"{first}:\n"
        "  catalog.db    what is backed up, where to, and all that ever ran\n"
        "  catalog.key   seals passphrases and credentials in it\n"
        "  manager.key   by which agents know this manager\n"
        f"Keep a copy of {home} in a safe place (`holdfast config backup`): without it no secret can be read.\n\n"
        f"Public key of this manager:\n  {public_key}\n\n"
        "Next, on every host that reads disks (proxy) or keeps restore points (repository):\n"
        f"  holdfast-agent init\n  holdfast-agent authorize '{public_key}'\n  holdfast-agent run\n"
        "then here, with the key that `holdfast-agent show --key` prints there:\n"
        "  holdfast agent add NAME HOST:8430 'KEY'"
    )
