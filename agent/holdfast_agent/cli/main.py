"""Entry point of ``holdfast-agent``; the one place that turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

import holdfast_agent
from holdfast_agent.errors import HoldfastError

from .authorize import authorize
from .init import init
from .run import run
from .show import show
from .take_over import take_over
from .token import token

USAGE_EXIT = 2
_INTERRUPTED_EXIT = 130
_WHOLE = 1000  # characters, more than any first sentence has


class Commands(click.Group):
    """In the order in which they are needed, each with its whole first sentence: click would sort and cut them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(_WHOLE)) for name, each in self.commands.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(holdfast_agent.__version__, prog_name="holdfast-agent")
def cli() -> None:
    """Holdfast's agent: it moves the data on proxies and repository hosts.

    \b
    Examples:
      holdfast-agent init --proxy /var/lib/libvirt/images --repository /srv/holdfast
      holdfast-agent authorize 'KEY OF THE MANAGER' --name vault
      holdfast-agent run
    """


for command in (init, authorize, token, run, show, take_over):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0, the exit code of a typed error, 2 for wrong usage, 130 when interrupted."""
    try:
        outcome = cli.main(arguments, prog_name="holdfast-agent", standalone_mode=False)
    except HoldfastError as error:
        click.echo(f"holdfast-agent: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE_EXIT)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED_EXIT)
    sys.exit(outcome if isinstance(outcome, int) else 0)  # click hands the code of --help and --version back
