"""``holdfast-agent run``: the daemon, in the foreground."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from holdfast_agent.config.load import find_config, load_config

from .options import config_option


@click.command()
@config_option
def run(config: Path | None) -> None:
    """Serve managers until SIGTERM or Ctrl-C. The log goes to standard error.

    \b
    Examples:
      holdfast-agent run
      holdfast-agent run --config ./agent.toml
    """
    settings = load_config(find_config(config))
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    from holdfast_agent.service.daemon import run_agent  # after the configuration is known to be good

    run_agent(settings)
