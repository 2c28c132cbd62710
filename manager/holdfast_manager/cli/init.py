"""`holdfast init`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from holdfast_agent.errors import AlreadyExists, Denied, UsageError

from .app import App, pass_app
from .commands import Command
from .whole import undisturbed


@click.command(
    cls=Command,
    examples=(
        "holdfast init",
        "holdfast init --no-questions",
        "holdfast init --agent local=127.0.0.1 --token-file ./token --repository main=/srv/backup/main "
        "--passphrase-file ./main.pass --server lab=images --option path=/srv/vms --job nightly",
    ),
)
@click.option("--no-questions", is_flag=True, help="Make the manager only, as where nobody can be asked.")
@click.option("--agent", metavar="NAME=HOST[:PORT]", help="Add this agent, by a token.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help="What `holdfast-agent token` printed there (mode 0600). Default: asked for.")  # fmt: skip
@click.option("--repository", metavar="NAME=PATH", help="Make this repository on the agent's host.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Its passphrase (mode 0600). Default: asked for.")  # fmt: skip
@click.option("--no-encryption", is_flag=True, help="Make the repository unencrypted.")
@click.option("--server", metavar="NAME=PLUGIN", help="Add this server.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of its plugin (repeatable).")
@click.option("--secret-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Its credentials as lines KEY=VALUE (mode 0600).")  # fmt: skip
@click.option("--job", metavar="NAME", help="Back up all VMs of the server into the repository, daily at 22:00.")
@pass_app
def init(app: App, /, no_questions: bool, **given: Any) -> None:
    """Set Holdfast up: the manager, then an agent, a repository, a server and a first job; then examine it all.

    On a terminal each step is explained and asked for; with options nothing is asked that they say. May be repeated at
    any time: what is there is kept, and what is left out or was interrupted is gone on with.

    The manager is its data directory, the configuration database and its keys. Its public key is printed, which agents
    must admit; `holdfast config key` prints it alone.
    """
    from .first_steps import ask, carry_out
    from .first_wishes import wishes_of

    wishes = wishes_of(given)
    if no_questions and wishes:
        raise UsageError(reason="--no-questions goes with no other step; leave it out: what options say is not asked")
    with undisturbed():
        made = _make_catalogue(app)
        public_key = _keys(app)
    home = str(app.settings.home)
    document = {"data_dir": home, "public_key": public_key, "created": made}
    asking = app.interactive and not wishes and not no_questions
    if wishes or asking:
        app.out.note(_told(home, public_key, made))
        document["steps"] = ask(app) if asking else carry_out(app, wishes)
        text = ""
    else:
        text = f"{_told(home, public_key, made)}\n\n{_next(public_key)}\n\n"
    findings = _examined(app)
    app.out.result({**document, "findings": findings}, lambda: text + _findings_told(findings))


def _examined(app: App) -> list[Any]:
    from holdfast_manager.doctor import examine

    return list(examine(app.settings, app.host))


def _findings_told(findings: list[Any]) -> str:
    from .doctor import told

    return told(findings)


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
        f"Public key of this manager:\n  {public_key}"
    )


def _next(public_key: str) -> str:
    return (
        "Next, on every host that reads disks (proxy) or keeps restore points (repository):\n"
        f"  holdfast-agent init\n  holdfast-agent authorize '{public_key}'\n  holdfast-agent run\n"
        "then here, with the key that `holdfast-agent show --key` prints there:\n"
        "  holdfast agent add NAME HOST:8430 'KEY'"
    )
