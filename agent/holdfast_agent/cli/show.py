"""``holdfast-agent show``: who this agent is, what it serves and whom it admits."""

from __future__ import annotations

import fcntl
from pathlib import Path

import click
import msgspec

from holdfast_agent.config.load import find_config, load_config
from holdfast_agent.config.settings import AgentSettings

from .options import config_option


class AuthorisedKey(msgspec.Struct, frozen=True):
    """One admitted manager."""

    key: str
    name: str


class AgentFacts(msgspec.Struct, frozen=True):
    """What ``show --output json`` prints; part of the interface. ``endpoint`` is None while the agent is stopped."""

    name: str
    public_key: str
    endpoint: str | None
    roles: tuple[str, ...]
    authorised: tuple[AuthorisedKey, ...]
    config_file: str
    config: AgentSettings


@click.command()
@config_option
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--key", is_flag=True, help="Print the public key alone, for `holdfast agent add`")
def show(config: Path | None, output: str, key: bool) -> None:
    """Show the public key, endpoint, roles, authorised managers and the effective configuration.

    \b
    Examples:
      holdfast-agent show
      holdfast-agent show --output json
      holdfast-agent show --key
    """
    facts = _gather(find_config(config))
    if key:
        click.echo(facts.public_key)
    elif output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(facts), indent=2))
    else:
        click.echo("\n".join(_lines(facts)))


def _gather(path: Path) -> AgentFacts:
    from holdfast_agent.channel.authentication import AuthorisedKeys, KeyPair

    settings = load_config(path)
    admitted = AuthorisedKeys(settings.authorised_keys_file).current()
    return AgentFacts(
        name=settings.agent_name,
        public_key=KeyPair.load(settings.secret_key_file).public,
        endpoint=_endpoint(settings),
        roles=settings.roles,
        authorised=tuple(AuthorisedKey(key, name) for key, name in admitted.items()),
        config_file=str(path),
        config=settings,
    )


def _endpoint(settings: AgentSettings) -> str | None:
    """Where the agent listens; None if none runs, which its lock tells better than a file that a crash leaves."""
    try:
        with settings.lock_file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return settings.endpoint_file.read_text(encoding="ascii").strip() if settings.endpoint_file.exists() else None


def _lines(facts: AgentFacts) -> list[str]:
    lines = [
        f"agent           {facts.name}",
        f"public key      {facts.public_key}",
        f"endpoint        {facts.endpoint or 'not running'}",
        f"roles           {', '.join(facts.roles) or 'none'}",
    ]
    lines += [f"authorised      {manager.key} {manager.name}".rstrip() for manager in facts.authorised]
    if not facts.authorised:
        lines.append("authorised      nobody yet: holdfast-agent authorize KEY")
    lines += ["", f"effective configuration ({facts.config_file}):", *_tables(msgspec.to_builtins(facts.config), "  ")]
    return lines


def _tables(values: dict[str, object], indent: str) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_tables(value, indent + "  ")]
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{indent}{key} = {text or '(default)'}")
    return lines
