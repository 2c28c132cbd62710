"""``holdfast-agent-immutable``: the helper that may mark files as immutable; it has that right and no other."""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from holdfast_agent.errors import HoldfastError, UsageError

from .main import USAGE_EXIT

_BACKLOG = 16


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--user", required=True, help="User of the agent; nobody else is answered")
@click.option("--socket", "socket_file", required=True, type=click.Path(path_type=Path), help="Where to listen")
@click.option("--state", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory of its own")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
def immutable(user: str, socket_file: Path, state: Path, paths: tuple[Path, ...]) -> None:
    """Make protected restore points below PATHS immutable (chattr +i) when the agent asks, and let go of them in time.

    Needs the capabilities LINUX_IMMUTABLE, FOWNER and DAC_READ_SEARCH. See packaging/systemd.

    \b
    Example:
      holdfast-agent-immutable --user holdfast --socket /run/holdfast-agent-immutable/socket \\
          --state /var/lib/holdfast-agent-immutable /srv/holdfast
    """
    from holdfast_agent.service.immutable_helper import Helper, Ledger
    from holdfast_agent.service.trusted_clock import TrustedClock

    owner = _user(user)
    _require_own(state)
    ledger = Ledger(state / "ledger.sqlite")
    helper = Helper([path.resolve() for path in paths], owner.pw_uid, ledger, TrustedClock(state / "clock"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        socket_file.unlink(missing_ok=True)
        listening.bind(str(socket_file))
        os.chown(socket_file, owner.pw_uid, -1)
        socket_file.chmod(0o600)
        listening.listen(_BACKLOG)
        click.echo(f"holdfast-agent-immutable: ready for {user} at {socket_file}", err=True)
        helper.serve(listening)


def _user(name: str) -> pwd.struct_passwd:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(reason=f"there is no user {name!r}") from None
    if found.pw_uid == 0:
        raise UsageError(reason="an agent that runs as root can clear the attribute itself: give it a user of its own")
    return found


def _require_own(state: Path) -> None:
    state.mkdir(mode=0o700, exist_ok=True)
    facts = state.stat()
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UsageError(reason=f"{state} must belong to this user alone (mode 0700): what it holds binds")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until it is stopped; exit codes as those of ``holdfast-agent``."""
    try:
        immutable.main(arguments, prog_name="holdfast-agent-immutable", standalone_mode=False)
    except HoldfastError as error:
        click.echo(f"holdfast-agent-immutable: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE_EXIT)
    except OSError as error:
        click.echo(f"holdfast-agent-immutable: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
