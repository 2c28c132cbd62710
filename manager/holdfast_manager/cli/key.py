"""`holdfast key …`."""

from __future__ import annotations

import io
from pathlib import Path

import click

from holdfast_agent.errors import HoldfastError
from holdfast_agent.sealing.paper import encode_paper
from holdfast_agent.sealing.slots import SlotFacts
from holdfast_manager.reports.table import table

from .app import App, pass_app
from .approving import require_approval
from .asking import new_passphrase
from .commands import Group

NOT_REVOKED = (
    "This does not take the master key back: whoever copied it, or a slot together with its passphrase, can still read "
    "what is in the repository. Against that helps only a new repository under a new key."
)
_PAPER = """\
Holdfast paper key of the repository {name}
Repository id {repository_id}

{lines}
{code}
Type it in by: holdfast repository unlock {name} --paper
Whoever holds this paper can read every backup in the repository. Keep it where no fire reaches both."""

_new_passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Its first line is the new passphrase (mode 0600). Default: a prompt, or a line of standard input.",
)


@click.group(cls=Group)
def key() -> None:
    """Keys of repositories: passphrases, each in a slot of its own, and the paper key."""


@key.command("list", examples=("holdfast key list main",))
@click.argument("repository")
@pass_app
def list_(app: App, repository: str) -> None:
    """The slots of a repository: each holds the master key, wrapped under a passphrase."""
    from holdfast_manager.enrolment.keys import KeyRing

    listed = KeyRing(app.catalog, repository, app.keys).listed()
    document = [
        {"slot": name, "error": facts.to_record()}
        if isinstance(facts, HoldfastError)
        else {"slot": name, "facts": facts}
        for name, facts in listed
    ]
    app.out.result({"repository": repository, "slots": document}, lambda: _table(listed))


@key.command(examples=("holdfast key add main", "holdfast key add main --slot deputy --passphrase-file ./deputy.pass"))
@click.argument("repository")
@click.option("--slot", metavar="NAME", help="A name for it, never to be used again. Default: the next number.")
@_new_passphrase_file
@pass_app
def add(app: App, repository: str, slot: str | None, passphrase_file: Path | None) -> None:
    """Add a passphrase: any of them opens the repository."""
    from holdfast_manager.enrolment.keys import KeyRing

    ring = KeyRing(app.catalog, repository, app.keys)
    require_approval(app, [f"a further passphrase of repository {repository}{'' if slot is None else f': {slot}'}"])
    ring.master()  # before anybody is asked for a passphrase
    changed = ring.add(new_passphrase(app, passphrase_file), slot)
    app.out.result(
        {"repository": repository, "added": changed.added}, f"The slot {changed.added} opens {repository} from now on"
    )


@key.command(examples=("holdfast key change main", "holdfast key change main deputy"))
@click.argument("repository")
@click.argument("slot", required=False)
@_new_passphrase_file
@pass_app
def change(app: App, repository: str, slot: str | None, passphrase_file: Path | None) -> None:
    """Change a passphrase: a new slot is added, then the old one is removed.

    This does not revoke the master key: a copy of the old slot with its passphrase, or of the key itself, still opens
    the repository.
    """
    from holdfast_manager.enrolment.keys import KeyRing

    ring = KeyRing(app.catalog, repository, app.keys)
    require_approval(app, [f"passphrase {slot or '(the only slot)'} of repository {repository}, for another"])
    ring.master()
    changed = ring.change(new_passphrase(app, passphrase_file), slot)
    text = f"The slot {changed.added} opens {repository} from now on; {changed.removed} does not any more"
    app.out.result({"repository": repository, "added": changed.added, "removed": changed.removed}, text)
    app.out.warning(NOT_REVOKED)


@key.command(examples=("holdfast key remove main deputy",))
@click.argument("repository")
@click.argument("slot")
@pass_app
def remove(app: App, repository: str, slot: str) -> None:
    """Remove a passphrase. The last one stays: without any nobody but this manager could open the repository."""
    from holdfast_manager.enrolment.keys import KeyRing

    ring = KeyRing(app.catalog, repository, app.keys)
    require_approval(app, [f"passphrase {slot} of repository {repository}"])
    changed = ring.remove(slot)
    text = f"The slot {changed.removed} does not open {repository} any more"
    app.out.result({"repository": repository, "removed": changed.removed}, text)
    app.out.warning(NOT_REVOKED)


@key.command(examples=("holdfast key rotate main",))
@click.argument("repository")
@pass_app
def rotate(app: App, repository: str) -> None:
    """Seal new blocks under a new key, derived from the same master key; all old ones stay readable.

    For the case that a proxy was taken over: what it learnt does not open later backups. Blocks that are stored already
    are not sealed anew. It does not help against a leaked master key. Sessions that run go on under the old key.
    """
    from holdfast_manager.enrolment.keys import KeyRing

    epoch = KeyRing(app.catalog, repository, app.keys).rotate()
    text = f"New blocks in {repository} are sealed under key epoch {epoch} from the next session on"
    app.out.result({"repository": repository, "epoch": epoch}, text)


@key.command(examples=("holdfast key paper main", "holdfast key paper main --no-code"))
@click.argument("repository")
@click.option("--no-code", is_flag=True, help="Letters only, without the QR code.")
@pass_app
def paper(app: App, repository: str, no_code: bool) -> None:
    """Print the master key for a safe: with it the repository opens without this manager and without a passphrase."""
    from holdfast_manager.enrolment.keys import KeyRing

    ring = KeyRing(app.catalog, repository, app.keys)
    require_approval(app, [f"the master key of repository {repository}, to be read by {app.actor.name}"])
    lines = encode_paper(ring.master(), ring.entry.repository_id)
    document = {"repository": repository, "repository_id": ring.entry.repository_id, "lines": lines}
    numbered = "\n".join(f"    {line}" for line in lines)
    app.out.result(
        document,
        lambda: _PAPER.format(
            name=repository,
            repository_id=ring.entry.repository_id,
            lines=numbered,
            code="" if no_code else "\n" + qr_text("".join(lines).replace(" ", "")),
        ),
    )


def qr_text(letters: str) -> str:
    """A QR code of half blocks for terminals and plain printers."""
    import segno

    out = io.StringIO()
    segno.make(letters, error="m", micro=False).terminal(out, compact=True)
    return out.getvalue()


def _table(listed: list[tuple[str, SlotFacts | HoldfastError]]) -> str:
    rows = [
        (name, "-", facts.text)
        if isinstance(facts, HoldfastError)
        else (name, facts.kdf, f"{facts.memory_kib // 1024} MiB, {facts.iterations} times")
        for name, facts in listed
    ]
    return table(("slot", "kind", "a guess costs"), rows)
