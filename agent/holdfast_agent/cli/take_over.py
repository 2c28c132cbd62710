"""``holdfast-agent take-over``: serve a repository on network storage in the place of a host that is gone."""

from __future__ import annotations

import os
from pathlib import Path

import click

from holdfast_agent.config.load import find_config, load_config
from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import UsageError

from .options import config_option


@click.command("take-over")
@click.argument("path")
@config_option
@click.option("--yes", is_flag=True, help="Ask nothing: the other agent is stopped for good")
def take_over(path: str, config: Path | None, yes: bool) -> None:
    """Let this agent serve the repository at PATH, which another one served until now.

    A repository on network storage is used by one agent only: with two, locks and caches protect nothing, and backups
    may be lost. So stop the other agent for good before, or make sure that its host is gone.

    \b
    Examples:
      holdfast-agent take-over /mnt/backup/main
      holdfast-agent take-over /mnt/backup/main --yes
    """
    from holdfast_agent.repository.claims import serving_host
    from holdfast_agent.repository.claims import take_over as take
    from holdfast_agent.service.identity import identity
    from holdfast_agent.service.repositories import allowed_repository

    settings = load_config(find_config(config))
    _require_own_user(settings)
    real, me = allowed_repository(settings, path), identity(settings)
    holder = serving_host(real)
    if holder is not None and holder.key == me.key:
        click.echo(f"{real} is served by this agent already")
        return
    if holder is not None and not yes:
        click.confirm(f"Is the agent {holder.name} stopped for good, or its host gone?", abort=True)
    take(real, me)
    click.echo(f"{real} is served by this agent now{f', not by {holder.name} any more' if holder else ''}")


def _require_own_user(settings: AgentSettings) -> None:
    """What another user writes into the repository could not be read by the agent."""
    owner = settings.secret_key_file.stat().st_uid if settings.secret_key_file.exists() else os.geteuid()
    if owner != os.geteuid():
        raise UsageError(reason=f"run this as the user of the agent (uid {owner}), for it writes into the repository")
