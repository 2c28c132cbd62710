"""``holdfast-agent authorize``: admit a manager, or shut it out."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast_agent.config.load import find_config, load_config
from holdfast_agent.errors import NotFound

from .options import config_option


# A key may begin with a dash and have an "h" in it, which must not ask for help then.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("key")
@config_option
@click.option("--name", default="", help="Whose key it is, for people")
@click.option("--remove", is_flag=True, help="Shut the manager out; what it does here is stopped at once")
def authorize(key: str, config: Path | None, name: str, remove: bool) -> None:
    """Admit the manager whose public key is KEY (40 characters; quote it for the shell).

    A running agent takes the change without a restart.

    \b
    Examples:
      holdfast-agent authorize 'Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID' --name vault
      holdfast-agent authorize 'Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID' --remove
    """
    from holdfast_agent.channel.authentication import AuthorisedKeys, check_public_key

    settings = load_config(find_config(config))
    check_public_key(key)
    keys = AuthorisedKeys(settings.authorised_keys_file)
    if remove:
        if not keys.remove(key):
            raise NotFound(kind="authorised key", name=key, advice="`holdfast-agent show` lists them")
        click.echo(f"{key} is shut out")
    elif keys.add(key, name):
        click.echo(f"{key} is admitted{f' as {name}' if name else ''}")
    else:
        click.echo(f"{key} was admitted already")
