"""``holdfast-agent init``: configuration, directories and keys."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path

import click

from holdfast_agent.config.load import find_config, load_config
from holdfast_agent.config.settings import (
    AgentSettings,
    ControlSettings,
    DataSettings,
    ProxySettings,
    RepositorySettings,
)
from holdfast_agent.errors import ConfigInvalid, UsageError

from .options import config_option


@click.command()
@config_option
@click.option("--name", default="", help="Name shown to managers  [default: the host's name]")
@click.option("--proxy", multiple=True, metavar="DIR", help="Take the role proxy for disks below DIR (repeatable)")
@click.option("--repository", multiple=True, metavar="DIR", help="Take the role repository below DIR (repeatable)")
@click.option(
    "--listen",
    default=ControlSettings().listen.removeprefix("tcp://"),
    show_default=True,
    metavar="HOST:PORT",
    help="Where managers connect",
)
@click.option("--state-dir", default=AgentSettings().state_dir, show_default=True, help="Keys, caches and lock")
@click.option(
    "--advertise", multiple=True, metavar="ADDRESS", help="Address that movers on other hosts are told; repeat for more"
)
@click.option("--yes", is_flag=True, help="Ask nothing")
def init(
    config: Path | None,
    name: str,
    proxy: tuple[str, ...],
    repository: tuple[str, ...],
    listen: str,
    state_dir: str,
    advertise: tuple[str, ...],
    yes: bool,
) -> None:
    """Write a commented configuration and make the agent's keys, where they are not there yet.

    Nothing that exists is changed, so it may be run again at any time; to begin anew, remove the files first.

    \b
    Examples:
      holdfast-agent init
      holdfast-agent init --proxy /var/lib/libvirt/images --yes
      holdfast-agent init --repository /srv/holdfast --listen 10.0.0.5:8430 --yes
    """
    path = find_config(config)
    if path.exists():
        given = name or proxy or repository or advertise
        click.echo(
            f"{path} exists and stays as it is{'; change it there: what is given here is not in it' if given else ''}"
        )
    else:
        if not (proxy or repository or yes) and sys.stdin.isatty():
            proxy, repository = _ask_roles()
        settings = _settings(name, proxy, repository, listen, state_dir, advertise)
        _write_config(path, settings)
        click.echo(f"wrote {path}")
    written = load_config(path)
    for folder in (*written.disk_paths, *written.repository_paths):
        if not Path(folder).is_dir():
            click.echo(f"there is no directory {folder} yet: make it, or mount its storage")
    _make_keys(written)


def _ask_roles() -> tuple[tuple[str, ...], tuple[str, ...]]:
    disks = click.prompt("Role proxy: directory below which disks may be opened (empty: no proxy)", default="")
    store = click.prompt("Role repository: directory that may hold repositories (empty: no repository)", default="")
    return (disks,) if disks else (), (store,) if store else ()


def _settings(
    name: str,
    proxy: tuple[str, ...],
    repository: tuple[str, ...],
    listen: str,
    state_dir: str,
    advertise: tuple[str, ...],
) -> AgentSettings:
    if not (proxy or repository):
        raise UsageError(reason="an agent needs a role: give --proxy DIR, --repository DIR or both")
    try:
        return AgentSettings(
            name=name,
            state_dir=_absolute(state_dir),
            control=ControlSettings(listen=f"tcp://{listen.removeprefix('tcp://')}"),
            data=DataSettings(advertised_address=advertise[0] if len(advertise) == 1 else advertise),
            proxy=ProxySettings(paths=tuple(map(_absolute, proxy))) if proxy else None,
            repository=RepositorySettings(paths=tuple(map(_absolute, repository))) if repository else None,
        )
    except ValueError as error:
        raise UsageError(reason=str(error).replace("tcp://", "")) from error  # which --listen may leave out


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _write_config(path: Path, settings: AgentSettings) -> None:
    from holdfast_agent.config.template import render

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(render(settings))
    except OSError as error:
        raise UsageError(reason=f"cannot write {path}: {error.strerror}") from error


def _make_keys(settings: AgentSettings) -> None:
    from holdfast_agent.channel.authentication import KeyPair

    state_dir = Path(settings.state_dir)
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not settings.secret_key_file.exists():
            KeyPair.generate().save(settings.secret_key_file)
    except OSError as error:
        reason = f"cannot make keys there: {error.strerror}"
        raise ConfigInvalid(file=str(state_dir), key="state_dir", reason=reason) from error
    keys = KeyPair.load(settings.secret_key_file)
    click.echo(f"public key of this agent: {keys.public}")
    click.echo("\nOn the manager, add it:")
    click.echo(f"  holdfast agent add {settings.agent_name} {_reachable(settings)} {shlex.quote(keys.public)}")
    click.echo("Here, admit the manager by the key that it prints, then start the agent:")
    click.echo("  holdfast-agent authorize KEY --name MANAGER")
    click.echo("  holdfast-agent run")


def _reachable(settings: AgentSettings) -> str:
    host, _, port = settings.control.listen.removeprefix("tcp://").rpartition(":")
    return f"{socket.gethostname() if host in ('0.0.0.0', '*', '[::]') else host}:{port}"  # noqa: S104 - compared
