"""`holdfast repository …`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from holdfast_agent.errors import AlreadyExists, UsageError
from holdfast_agent.model.units import format_size
from holdfast_manager.catalog.rows import checked
from holdfast_manager.catalog.values import AgentEntry, RepositoryEntry
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import facts, table

from .app import App, pass_app
from .approving import require_approval
from .asking import existing_passphrase, new_passphrase, paper_key
from .commands import Group
from .members import in_each, repository_or_group
from .repository_copy import copy
from .repository_edit import SLOTS, edit, limit_options, limits_given, limits_text
from .repository_gc import gc
from .repository_group import evacuate, group, seal, unseal
from .repository_heal import heal
from .repository_stats import stats
from .repository_verify import verify
from .whole import undisturbed

if TYPE_CHECKING:
    from holdfast_manager.enrolment.repositories import Opened

_passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Its first line is the passphrase (mode 0600). Default: a prompt, or a line of standard input.",
)
_paper_file = click.option(
    "--paper-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="By the paper key in FILE (mode 0600): the page as `holdfast key paper` prints it, or its four lines.",
)


@click.group(cls=Group)
def repository() -> None:
    """Repositories: where restore points are kept."""


@repository.command(
    examples=(
        "holdfast repository add main --agent local --path /srv/backup/main --create",
        "holdfast repository add main --agent local --path /srv/backup/main --create --passphrase-file ./main.pass",
        "holdfast repository add old --agent local --path /srv/backup/old",
    )
)
@click.argument("name")
@click.option("--agent", required=True, help="The agent on the repository's host.")
@click.option("--path", required=True, help="The directory on that host, absolute.")
@click.option("--create", is_flag=True, help="Make a new repository; without it the path must hold one.")
@click.option("--no-encryption", is_flag=True, help="With --create: store blocks unencrypted.")
@click.option("--slots", type=SLOTS, default=4, show_default=True, help="Tasks at once in it.")
@limit_options
@_passphrase_file
@_paper_file
@pass_app
def add(
    app: App,
    name: str,
    agent: str,
    path: str,
    create: bool,
    no_encryption: bool,
    slots: int,
    read_limit: str | None,
    write_limit: str | None,
    passphrase_file: Path | None,
    paper_file: Path | None,
) -> None:
    """Add a repository: a new one, or one that exists.

    Blocks are encrypted before they leave the proxy; the repository's host never sees a key. The passphrase opens the
    repository if this manager is lost: nobody can restore without one of the two.
    """
    from holdfast_manager.enrolment import repositories

    if any(entry.name == name for entry in app.catalog.repositories.list()):
        raise AlreadyExists(kind="repository", name=name)
    if any(group.name == name for group in app.catalog.groups.list()):
        raise AlreadyExists(kind="repository group", name=name)
    if no_encryption and not create:
        raise UsageError(reason="--no-encryption goes with --create; an existing repository stays as it is")
    if create and paper_file is not None:
        raise UsageError(reason="a paper key opens a repository that exists; a new one gets a passphrase")
    host = app.catalog.agents.get(agent)
    draft = RepositoryEntry(
        name=name, agent=agent, path=path, repository_id="", encrypted=True, slots=slots,
        **limits_given(read_limit, write_limit),
    )  # fmt: skip
    checked(draft, "options")  # a name that cannot be kept must not be found out after the repository has been made
    if create:
        passphrase = None if no_encryption else new_passphrase(app, passphrase_file)
        with undisturbed():  # a repository without its key here would be one that only the passphrase opens
            opened = repositories.create(host, path, passphrase, app.keys)
            entry = _keep(app, draft, opened)
    else:
        opened = _open(app, host, path, name, passphrase_file, paper_file)
        entry = _keep(app, draft, opened)
    found = 0 if create else _rescan(app, name)
    sealed = "encrypted" if entry.encrypted else "not encrypted"
    free = format_size(opened.facts.free_bytes)
    held = "" if create else f", {counted(found, 'restore point')}"
    document = {"repository": entry, "created": create, "free_bytes": opened.facts.free_bytes, "points": found}
    app.out.result(document, f"{'Created' if create else 'Added'} repository {name}: {sealed}, {free} free{held}")


@repository.command("list", examples=("holdfast repository list",))
@pass_app
def list_(app: App) -> None:
    """All repositories."""
    entries = app.catalog.repositories.list()
    app.out.result({"repositories": entries}, lambda: _table(entries))


@repository.command(examples=("holdfast repository show main",))
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """One repository, and what its agent says of it now."""
    from holdfast_manager.enrolment import repositories

    entry = app.catalog.repositories.get(name)
    found = repositories.facts_of(app.catalog.agents.get(entry.agent), entry.path, app.keys)
    kept = app.catalog.repositories.master_key(name) is not None
    slots = [slot.name for slot in found.slots]
    document = {
        "repository": entry,
        "total_bytes": found.total_bytes,
        "free_bytes": found.free_bytes,
        "key_kept": kept,
        "key_slots": slots,
    }
    key = "none: not encrypted" if not entry.encrypted else "kept sealed here" if kept else "not kept: unlock it"
    pairs = [
        ("Repository", name),
        ("Place", f"{entry.path} on agent {entry.agent}"),
        (
            "Id",
            entry.repository_id + ("" if found.repository_id == entry.repository_id else " (another is there now!)"),
        ),
        ("Space", f"{format_size(found.free_bytes)} free of {format_size(found.total_bytes)}"),
        ("Slots", f"{entry.slots} tasks at once"),
        ("New points", "none: it is sealed" if entry.sealed else "taken"),
        *([("Member of", entry.member_of)] if entry.member_of else []),
        ("Limits", limits_text(entry)),
        ("Key", key),
        ("Passphrases", ", ".join(slots) if entry.encrypted else "-"),
    ]
    app.out.result(document, facts(pairs))


for command in (edit, verify, gc, stats, copy, heal, group, seal, unseal, evacuate):
    repository.add_command(command)


@repository.command(examples=("holdfast repository rescan main", "holdfast repository rescan pool"))
@repository_or_group
@pass_app
def rescan(app: App, name: str) -> int:
    """Read the list of restore points from the repository anew."""

    def read(member: str) -> int:
        found = _rescan(app, member)
        app.out.result({"repository": member, "points": found}, f"{counted(found, 'restore point')} in {member}")
        return 0

    return in_each(app, name, read)


@repository.command("rebuild-index", examples=("holdfast repository rebuild-index main",))
@click.argument("name")
@pass_app
def rebuild_index(app: App, name: str) -> None:
    """Have the agent throw its local index of a repository away and rebuild it from the repository itself."""
    from holdfast_manager.enrolment import repositories

    entry = app.catalog.repositories.get(name)
    records = repositories.rebuild_index(app.catalog.agents.get(entry.agent), entry.path, app.keys)
    app.out.result(
        {"repository": name, "records": records}, f"Rebuilt the index of {name}: {counted(records, 'record')}"
    )


@repository.command(
    examples=(
        "holdfast repository unlock main",
        "holdfast repository unlock main --paper",
        "holdfast repository unlock main --paper-file ./paper.txt",
    )
)
@click.argument("name")
@_passphrase_file
@click.option("--paper", is_flag=True, help="By the paper key: typed at a prompt, or read from standard input.")
@_paper_file
@pass_app
def unlock(app: App, name: str, passphrase_file: Path | None, paper: bool, paper_file: Path | None) -> None:
    """Open a repository by a passphrase or its paper key and keep its key (sealed).

    For a restored or rebuilt manager. `holdfast key paper` prints the paper key.
    """
    from holdfast_manager.enrolment import repositories

    if paper or paper_file is not None:
        if passphrase_file is not None:
            raise UsageError(reason="give a passphrase or a paper key, not both")
        _unlock_by_paper(app, name, paper_file)
        return
    entry = app.catalog.repositories.get(name)
    found = repositories.facts_of(app.catalog.agents.get(entry.agent), entry.path, app.keys)
    repositories.require_same(entry, found)
    if not entry.encrypted:
        raise UsageError(reason=f"the repository {name!r} is not encrypted: there is nothing to unlock")
    master = repositories.unlock(found, name, existing_passphrase(app, passphrase_file, name))
    app.catalog.repositories.set_master_key(name, None if master is None else master.reveal())
    app.out.result({"unlocked": name}, f"Unlocked {name}; its key is kept sealed")


@repository.command(examples=("holdfast repository remove old",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Forget a repository and its key. Its data stays where it is; `add` with the passphrase brings it back."""
    entry = app.catalog.repositories.get(name)
    require_approval(app, [f"repository {name} ({entry.path} on {entry.agent})"])
    app.catalog.repositories.remove(name)
    text = f"Forgot repository {name}. Its data stays at {entry.path} on {entry.agent}"
    again = "; its passphrase opens it again" if entry.encrypted else ""
    app.out.result({"removed": name, "path": entry.path, "agent": entry.agent}, text + again)


def _unlock_by_paper(app: App, name: str, paper_file: Path | None) -> None:
    from holdfast_manager.enrolment.keys import KeyRing

    master = KeyRing(app.catalog, name, app.keys).from_paper(paper_key(app, paper_file))
    app.catalog.repositories.set_master_key(name, master.reveal())
    app.out.result({"unlocked": name}, f"Unlocked {name} by its paper key, which is kept sealed")
    app.out.note(f"If its passphrases are lost: `holdfast key add {name}` makes a new one")


def _keep(app: App, draft: RepositoryEntry, opened: Opened) -> RepositoryEntry:
    """Write down what was made or opened, with its key."""
    encrypted = opened.master is not None
    entry = msgspec.structs.replace(draft, repository_id=opened.facts.repository_id, encrypted=encrypted)
    app.catalog.repositories.add(entry, None if opened.master is None else opened.master.reveal())
    app.catalog.repositories.raise_epoch(entry.name, opened.facts.epoch)
    return entry


def _open(
    app: App, host: AgentEntry, path: str, name: str, passphrase_file: Path | None, paper_file: Path | None
) -> Opened:
    from holdfast_manager.enrolment import repositories
    from holdfast_manager.enrolment.keys import master_of_paper

    found = repositories.facts_of(host, path, app.keys)
    repositories.require_unknown(app.catalog.repositories.list(), host, found)
    if paper_file is not None:
        return repositories.Opened(found, master_of_paper(paper_key(app, paper_file), found.repository_id, name))
    passphrase = existing_passphrase(app, passphrase_file, name) if repositories.is_encrypted(found) else None
    return repositories.Opened(found, repositories.unlock(found, name, passphrase))


def _rescan(app: App, name: str) -> int:
    from holdfast_manager.enrolment.points import asking
    from holdfast_manager.enrolment.points import rescan as read_points

    with asking(app.catalog, name, app.keys) as ask:
        found = read_points(app.catalog, name, ask, time.time())
    for sid in found.refused:
        app.out.warning(f"restore point {sid} is not authentic or too new for this version; it is left out")
    return len(found.rows)


def _table(entries: tuple[RepositoryEntry, ...]) -> str:
    if not entries:
        return "No repositories yet; `holdfast repository add` adds one"
    rows = [
        (
            entry.name,
            entry.agent,
            entry.path,
            "encrypted" if entry.encrypted else "plain",
            str(entry.slots),
            (entry.member_of or "-") + (", sealed" if entry.sealed else ""),
        )
        for entry in entries
    ]
    return table(("repository", "agent", "path", "blocks", "slots", "group"), rows, right=("slots",))
