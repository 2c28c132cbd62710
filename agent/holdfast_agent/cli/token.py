"""``holdfast-agent token``: let a manager enrol itself, once."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast_agent.config.load import find_config, load_config
from holdfast_agent.errors import UsageError

from .options import config_option

_LONGEST_S = 7 * 86400.0


@click.command()
@config_option
@click.option("--valid", default="1h", show_default=True, metavar="TIME", help="For how long it may be used")
def token(config: Path | None, valid: str) -> None:
    """Print a token by which one manager may enrol itself, once: `holdfast agent add NAME HOST --token`.

    Whoever has it within that time becomes a manager of this agent: hand it over as you would a password.

    \b
    Examples:
      holdfast-agent token
      holdfast-agent token --valid 10min
    """
    from holdfast_agent.channel.authentication import KeyPair
    from holdfast_agent.channel.enrolment_tokens import EnrolmentTokens
    from holdfast_agent.model.units import parse_duration

    settings = load_config(find_config(config))
    valid_s = parse_duration(valid)
    if not 0 < valid_s <= _LONGEST_S:
        raise UsageError(reason="a token is valid for more than nothing and at most 7 days")
    keys = KeyPair.load(settings.secret_key_file)
    click.echo(EnrolmentTokens(settings.tokens_file).make(keys.public, valid_s).text)
