"""The steps of `holdfast init` after the manager itself: each is a command that could be typed, told and carried out.

So nothing can be set up here that cannot be elsewhere, a step that was interrupted leaves what its command leaves
(nothing, or the whole), and whoever went through them knows the commands.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import click
import msgspec

from holdfast_agent.errors import HoldfastError, RepositoryExists, UsageError
from holdfast_manager.catalog.values import AgentRole
from holdfast_plugins.api.registry import Family

from .app import App
from .first_wishes import SCHEDULE, Line, Wishes, job_line, repository_line
from .output import Collected, styled

_LOCAL = ("localhost", "127.0.0.1", "[::1]")

AGENT = """\
An agent runs on each host that has disks to read (a proxy) or room for restore points (a repository); one host may be
both. On that host, in another terminal:
  holdfast-agent init     asks which directories it serves, and makes its keys
  holdfast-agent run      or, by systemd: systemctl enable --now holdfast-agent
  holdfast-agent token    prints a token by which it admits this manager, once"""
REPOSITORY = """\
Restore points are kept in a directory on an agent's host, below one of its repository.paths. All blocks are encrypted
before they leave the proxy. The passphrase opens the repository when this manager is lost: keep it somewhere else."""
PAPER = """\
The paper key opens the repository without this manager and without a passphrase: print it, and put it into a safe.
Whoever sees it can read every backup."""
SERVER = """\
A server is the hypervisor whose VMs are backed up. What can be backed up:"""
JOB = """\
A job says which VMs are backed up, where to and when."""
LATER = "empty: later"


def carry_out(app: App, wishes: Wishes) -> dict[str, Any]:
    """All wishes, one by one; what is there by its name is kept. Returns what each command told."""
    told = {}
    for wish in wishes:
        if wish.name in _names(app, wish.kind):
            app.out.note(f"The {wish.kind} {wish.name} is there already")
        else:
            told[wish.kind] = _run(app, wish.line)
    return told


def ask(app: App) -> dict[str, Any]:
    """Explain each step and ask for it; whoever leaves in between loses nothing, and goes on by `holdfast init`."""
    told: dict[str, Any] = {}
    steps = (("agent", AGENT, _ask_agent), ("repository", REPOSITORY, _ask_repository), ("server", SERVER, _ask_server),
             ("job", JOB, _ask_job))  # fmt: skip
    try:
        for number, (kind, explained, asked) in enumerate(steps, start=1):
            app.out.note(styled(f"\nStep {number} of {len(steps)}: {kind}", bold=True))
            there = _names(app, kind)
            if there:
                app.out.note(f"There already: {', '.join(there)}")
                continue
            app.out.note(explained)
            document = asked(app)
            if document is not None:
                told[kind] = document
    except (click.Abort, KeyboardInterrupt):
        app.out.note("\nWhat was made stays; `holdfast init` goes on from there.")
        raise
    app.out.note(styled("\nWhat `holdfast doctor` says of it:", bold=True))
    return told


# --- one step each: what is asked, and the command that it makes ----------------------------------------------------


def _ask_agent(app: App) -> Any:
    def line() -> Line:
        place = _question(f"Where is it? HOST or HOST:PORT ({LATER})")
        if not place:
            return ()
        host = place.rpartition(":")[0] or place
        name = _question("What to call it here", "local" if host in _LOCAL else host.partition(".")[0])
        return ("agent", "add", name, place, "--token")

    return _until_it_works(app, line)


def _ask_repository(app: App) -> Any:
    agents = [entry.name for entry in app.catalog.agents.list() if AgentRole.REPOSITORY in entry.roles]
    if not agents:
        app.out.note("No agent with that role is there yet, so this has to wait.")
        return None

    def line() -> Line:
        agent = _choice("On the host of which agent", agents)
        path = _question(f"Directory there, absolute ({LATER})")
        if not path:
            return ()
        return repository_line(_question("What to call it", PurePosixPath(path).name), agent, path, "--create")

    document = _until_it_works(app, line)
    if document is not None and document["repository"].encrypted:
        name = document["repository"].name
        app.out.note(PAPER)
        if click.confirm("Print it now?", default=True, err=True):
            _run(app, ("key", "paper", name))
        else:
            app.out.note(f"`holdfast key paper {name}` prints it at any time.")
    return document


def _ask_server(app: App) -> Any:
    provided = {each.name: each.summary for report in app.host.report() for each in report.provides
                if each.family == Family.HYPERVISOR}  # fmt: skip
    app.out.note("\n".join(f"  {name:10} {summary}" for name, summary in provided.items()))

    def line() -> Line:
        plugin = _question(f"Which of them ({LATER})")
        if not plugin:
            return ()
        if plugin not in provided:
            raise UsageError(reason=f"there is no {plugin!r}; there are {', '.join(provided)}")
        name = _question("What to call it", plugin)
        fields = msgspec.structs.fields(app.host.options_type(Family.HYPERVISOR, plugin))
        required = [field.encode_name for field in fields if field.required]
        told = [word for key in required for word in ("--option", f"{key}={_question(f'Its {key}')}")]
        secrets = _question("Names of its credentials, such as: user password (empty: none)").split()
        asked = [word for key in secrets for word in ("--secret", key)]
        return ("server", "add", name, "--plugin", plugin, *told, *asked)

    return _until_it_works(app, line)


def _ask_job(app: App) -> Any:
    repositories, servers = _names(app, "repository"), _names(app, "server")
    if not (repositories and servers):
        app.out.note("It needs a repository and a server, so this has to wait.")
        return None

    def line() -> Line:
        server, repository = _choice("VMs of which server", servers), _choice("Into which repository", repositories)
        if not click.confirm(f"Back up all VMs of {server} into {repository}, {SCHEDULE}?", default=True, err=True):
            return ()
        return job_line(_question("What to call it", "nightly"), server, repository)

    document = _until_it_works(app, line)
    if document is not None:
        app.out.note(
            f"`holdfast job run {document['job']['name']}` runs it now. By its schedule it is run by "
            "`holdfast service run`, or: systemctl enable --now holdfast"
        )
    return document


def _until_it_works(app: App, line: Callable[[], Line]) -> Any:
    """What the command told that ``line`` asks for; None for none, or where whoever is asked gives up."""
    while True:
        try:
            made = line()
            return _run(app, made) if made else None
        except RepositoryExists as error:
            app.out.error(error.to_record())
            if click.confirm("Open the one that is there?", default=True, err=True):
                line = _opening(made)
                continue
        except HoldfastError as error:
            app.out.error(error.to_record())
        if not click.confirm("Once more?", default=True, err=True):
            return None


def _opening(making: Line) -> Callable[[], Line]:
    return lambda: tuple(word for word in making if word != "--create")


def _run(app: App, line: Line) -> Any:
    """Carry a command out as if it had been typed; returns its document. Raises what it raises."""
    from .root import root

    app.out.note(styled(f"  holdfast {shlex.join(line)}", dim=True))
    collected = Collected(app.out)
    with app.step(line, collected) as step:
        root.main(list(line), prog_name="holdfast", standalone_mode=False, obj=step)
    return collected.documents[-1]


def _names(app: App, kind: str) -> list[str]:
    return [entry.name for entry in getattr(app.catalog, _TABLES[kind]).list()]


_TABLES = {"agent": "agents", "repository": "repositories", "server": "servers", "job": "jobs"}


def _question(text: str, default: str = "") -> str:
    answer: str = click.prompt(text, default=default, show_default=bool(default), err=True)
    return answer.strip()


def _choice(text: str, among: Sequence[str]) -> str:
    """Not asked where there is no choice."""
    if len(among) == 1:
        return among[0]
    chosen: str = click.prompt(text, type=click.Choice(list(among)), err=True)
    return chosen
