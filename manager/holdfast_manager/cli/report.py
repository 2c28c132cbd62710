"""`holdfast report`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from holdfast_agent.durable import replaced_file
from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import parse_duration
from holdfast_manager.reports.estate import EstateReport
from holdfast_manager.reports.sentences import counted

from .app import App, pass_app
from .commands import Command


@click.command(
    cls=Command,
    examples=("holdfast report /srv/www/backup.html", "holdfast report week.html --since 7d --rpo 24h"),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--since", default="7d", show_default=True, metavar="AGE", help="Sessions and growth since then.")
@click.option("--rpo", default="24h", show_default=True, metavar="AGE", help="How old the newest good point may be.")
@click.option("--no-inventory", is_flag=True, help="Ask no server for its VMs: only VMs with points are known then.")
@pass_app
def report(app: App, file: Path, since: str, rpo: str, no_inventory: bool) -> None:
    """Write a page about everything: VMs and whether they are protected, sessions, growth, bottlenecks.

    One HTML file that needs nothing else, to be kept, mailed, or put on a web server. It is replaced as a whole.
    """
    from holdfast_manager.reports.estate_html import estate_html

    app.catalog.sessions.reap_dead()
    found = _gather(app, parse_duration(since), parse_duration(rpo), ask=not no_inventory)
    _write(file, estate_html(found))
    told = ", ".join(f"{count} {state}" for state, count in found.states.items() if count)
    app.out.result(
        {"file": str(file), "report": found}, f"Wrote {file}: {counted(len(found.vms), 'VM')}{told and f': {told}'}"
    )


def _gather(app: App, window_s: float, rpo_s: float, ask: bool) -> EstateReport:
    from holdfast_manager.enrolment.inventory import vms_of_servers
    from holdfast_manager.reports.gathering import whole_estate

    inventory, silent = vms_of_servers(app.host, app.catalog) if ask else ({}, {})
    return whole_estate(app.catalog, inventory, silent, window_s, rpo_s, time.time())


def _write(file: Path, text: str) -> None:
    """Whoever reads the page sees the old or the new one, never a half."""
    try:
        with replaced_file(file, readable=True) as page:
            page.write(text.encode())
    except OSError as error:
        raise UsageError(reason=f"{file} cannot be written: {error.strerror}") from error
