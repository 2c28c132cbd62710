"""What every command prints with ``--output json``: its keys and their types are as they were, for programs read them.

One site is gone through from the first command to the last, each command once at least. A change shows as a difference
to ``tests/golden/command-output.json``; where it is meant, ``HOLDFAST_SNAPSHOTS=write`` and this test write the file
anew. Keys are added, never renamed, nor given another meaning: look at the difference before it is committed.
"""

from __future__ import annotations

import difflib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_agent.channel.authentication import KeyPair
from lab import file_trees
from lab.command_tree import every_command
from lab.installation import COMMAND_TIMEOUT_S, Installation, installed
from lab.shapes import merged, shape_of

SNAPSHOT = Path(__file__).parents[1] / "golden" / "command-output.json"
MIB = 1 << 20

ELSEWHERE = {
    "holdfast service run": "runs until it is told to stop, and prints a log: test_service.py",
    "holdfast instant start": "needs a running hypervisor, as all of its group do: test_instant.py",
    "holdfast instant stop": "see above",
    "holdfast instant migrate": "see above",
    "holdfast instant resume": "see above",
    "holdfast verify boot": "needs a guest that boots: test_verify_boot.py",
    "holdfast point mount": "needs FUSE, and goes on until it is unmounted: test_files_mount.py",
    "holdfast export resume": "needs a session that was killed: test_exports.py",
    "holdfast export discard": "needs an export with an overlay: test_exports.py",
    "holdfast notifier test": "needs a server that takes notices: test_notices.py",
    "holdfast config restore": "prints nothing but where it stands: test_config_backup.py",
    "holdfast approval require": "needs another administrator, as all of its group but `list` do: test_approvals.py",
    "holdfast approval grant": "see above",
    "holdfast approval refuse": "see above",
    "holdfast approval waive": "see above",
    "holdfast remote check": "needs another manager: test_api.py",
    "holdfast-agent init": "prints text only, and so do the others of the agent but `show`: test_agent_cli.py",
    "holdfast-agent authorize": "see above",
    "holdfast-agent run": "see above",
    "holdfast-agent take-over": "see above",
    "holdfast-agent token": "see above",
}


class Site:
    """Runs commands, and keeps the shapes of what they print."""

    def __init__(self, house: Installation) -> None:
        self.house = house
        self.shapes: dict[str, list[Any]] = {}

    def run(self, command: str, *arguments: str | Path, expect: int = 0, keep: bool = True, of: str = "") -> Any:
        """Run ``holdfast COMMAND ARGUMENTS``; what it prints becomes part of the snapshot if it is to be kept.

        ``of``: of what, where that is another document of the same command.
        """
        document = self.house.holdfast(*command.split(), *arguments, expect=expect)
        if keep:
            self.shapes.setdefault(f"holdfast {command}{of and f' of {of}'}", []).append(shape_of(document))
        return document

    def followed(self, session: int) -> list[Any]:
        """Wait for the end of a session: a document for each event, and one with the report."""
        command = self.house.command("session", "follow", str(session))
        done = self.house.commands.run(command, self.house.environment, COMMAND_TIMEOUT_S)
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with installed(tmp_path_factory.mktemp("house"), snapshot="in-place") as house:
        site = Site(house)
        furnish(site)
        back_up(site)
        look(site)
        get_back(site)
        care(site)
        take_down(site)
        yield site


def passphrase(house: Installation, name: str) -> Path:
    file = house.home / name
    file.touch(0o600)
    file.write_text("correct horse battery staple\n")
    return file


def furnish(site: Site) -> None:
    house = site.house
    content = house.home / "content"
    (content / "etc").mkdir(parents=True)
    (content / "etc" / "hostname").write_text("web\n")
    file_trees.make_ext4(house.vms / "web.img", content)
    (house.vms / "db.img").write_bytes(random.Random(1).randbytes(2 * MIB))
    site.run("init")
    site.run("server add", "other", "--plugin", "images", "--option", f"path={house.vms}")
    for name in ("main", "offsite"):
        place = ("--agent", "local", "--path", house.store / name, "--create")
        sealed = ("--passphrase-file", passphrase(house, "main.pass")) if name == "main" else ("--no-encryption",)
        site.run("repository add", name, *place, *sealed)
    site.run(
        "network rule add", "wan", "--source", "10.0.0.0/16", "--bandwidth", "5 MiB", "--window", "mon-fri 08:00-18:00"
    )
    site.run("network rule edit", "wan", "--streams", "3")
    site.run("network rule disable", "wan")
    site.run("network rule enable", "wan")
    site.run("network prefer", "127.0.0.0/8")
    what = ("--server", "lab", "--repository", "main", "--retry-pause", "0.2 s")
    site.run(
        "job create", "nightly", *what, "--include", "*", "--keep-count", "1", "--keep-minimum", "1", "--keep-days", "0"
    )
    site.run("job edit", "nightly", "--description", "All that there is")
    site.run("job disable", "nightly")
    site.run("job enable", "nightly")
    file = house.home / "site.toml"
    file.write_text(
        '[jobs.weekly]\nserver = "lab"\nrepository = "main"\ninclude = ["db.img"]\nschedule.start = ["sat 10:00"]\n'
    )
    site.run("apply", file, "--dry-run")
    site.run("apply", file)


def back_up(site: Site) -> None:
    session = site.run("job run", "nightly")["id"]
    *events, report = site.followed(session)
    # What else an event has goes by its kind; lines about tasks come as often as somebody looks.
    kinds = [{"event": {"kind": each["event"]["kind"]}} for each in events if "event" in each]
    site.shapes["holdfast session follow"] = [shape_of(each) for each in (*kinds, report)]
    (site.house.vms / "db.img").write_bytes(random.Random(2).randbytes(2 * MIB))
    site.run("job run", "nightly")
    site.run("session show", str(session))
    site.run("session list")
    site.run("session stop", str(session))
    site.run("job stop", "nightly", expect=10, keep=False)


def look(site: Site) -> None:
    house = site.house
    site.run("user add", "alice", "--role", "viewer")
    site.run("user edit", "alice", "--role", "operator")
    site.run("user token", "alice", "--label", "dashboard", "--days", "30")
    for command in (
        "doctor", "agent list", "server list", "repository list", "network show", "network rule list", "job list",
        "service show", "notifier list", "point list", "instant list", "export list", "plugin list", "config show",
        "config key", "user list", "audit list", "audit verify", "approval list", "db migrate", "retention simulate",
    ):  # fmt: skip
        site.run(command, expect=1 if command == "doctor" else 0)  # nothing runs by the schedule of the job "weekly"
    house.environment["HOLDFAST_MANAGERS"] = str(house.home / "managers")
    site.run("remote add", "office", "127.0.0.1", KeyPair.generate().public)
    site.run("remote list")
    site.run("remote remove", "office")
    site.run("agent list", "--check")
    site.run("server show", "lab")
    site.run("server edit", "other", "--max-tasks", "3")
    site.run("server clean", "lab")
    site.run("network rule show", "wan")
    site.run("job show", "nightly")
    site.run("plugin check", "images", "--server", "lab")
    site.run("plugin new", "acme", "--kind", "hypervisor", "--directory", house.home / "acme")
    site.run("report", house.home / "report.html")
    site.run("benchmark", "local", "main", "--size", "8 MiB")
    shown = json.loads(house.agent_command("show", "--output", "json"))
    site.shapes["holdfast-agent show"] = [shape_of(shown)]


def get_back(site: Site) -> None:
    house = site.house
    of_web = ("--vm", "web.img")
    newest = site.run("point show", "latest", "--vm", "db.img")["point"]["sid"]
    (older,) = (each["sid"] for each in site.run("point list", "--pruned")["points"] if each["vm_name"] == "db.img")
    site.run("point undo-prune", older)
    site.run("protect", older)
    site.run("unprotect", older)
    site.run("point diff", older, newest)
    site.run("point volumes", "latest", *of_web)
    site.run("point ls", "latest:/etc", *of_web)
    site.run("point find", "latest", "host*", *of_web)
    site.run("restore files", "latest:/etc", house.out / "etc", *of_web)
    site.run("restore disk", "--point", newest, "--to", house.out / "db.img")
    site.run("restore vm", "--point", newest, "--server", "lab", "--name", "db-restored")
    export = site.run("export start", "--point", newest)["export"]["session"]
    site.run("export list")
    site.run("export stop", str(export))


def care(site: Site) -> None:
    house = site.house
    site.run("prune", "--dry-run")
    site.run("prune")
    site.run("repository show", "main")
    site.run("repository stats", "main", "--points")
    site.run("repository edit", "main", "--slots", "3")
    site.run("repository group create", "pool", "--member", "main")
    site.run("repository group edit", "pool", "--policy", "capacity")
    site.run("repository group list")
    site.run("repository group show", "pool")
    for command in ("rescan", "stats", "gc", "verify"):
        site.run(f"repository {command}", "pool", of="a group")
    site.run("repository heal", "pool", "--from", "offsite", of="a group")
    site.run("repository seal", "main")
    site.run("repository unseal", "main")
    site.run("repository group edit", "pool", "--add", "offsite", keep=False)
    site.run("repository evacuate", "offsite")
    site.run("repository unseal", "offsite", keep=False)
    site.run("repository group remove", "pool")
    site.run("repository rescan", "main")
    site.run("repository rebuild-index", "main")
    site.run("repository unlock", "main", "--passphrase-file", house.home / "main.pass")
    site.run("repository verify", "main")
    site.run("repository gc", "main")
    site.run("repository copy", "main", "offsite", "--dry-run")
    site.run("repository copy", "main", "offsite")
    site.run("repository heal", "main", "--from", "offsite")
    site.run("key add", "main", "--slot", "deputy", "--passphrase-file", passphrase(house, "deputy.pass"))
    site.run("key change", "main", "deputy", "--passphrase-file", passphrase(house, "deputy2.pass"))
    slots = site.run("key list", "main")["slots"]
    site.run("key remove", "main", slots[-1]["slot"])
    site.run("key rotate", "main")
    site.run("key paper", "main")
    site.run("config backup", house.home / "safe.backup", "--passphrase-file", passphrase(house, "safe.pass"))
    site.run("session prune", "--dry-run")


def take_down(site: Site) -> None:
    key = site.run("agent show", "local")["agent"]["public_key"]
    site.run("agent add", "second", f"127.0.0.1:{site.house.port}", key)
    site.run("agent edit", "second", "--proxy-slots", "1")
    site.run("agent disable", "second")
    site.run("agent enable", "second")
    site.run("agent remove", "second")
    site.run("server remove", "other")
    site.run("user remove", "alice")
    site.run("network rule remove", "wan")
    site.run("job edit", "weekly", "--bandwidth", "16 KiB", "--compression", "none", keep=False)
    session = site.run("job run", "weekly", "--detach", keep=False)["session"]
    site.run("job stop", "weekly")
    site.followed(session)
    site.run("job edit", "weekly", "--reset", "bandwidth", keep=False)
    site.run("job retry", "weekly")
    site.run("job remove", "weekly")
    site.run("repository remove", "offsite")


def test_every_command_is_gone_through(site: Site) -> None:
    missing = set(every_command()) - site.shapes.keys() - ELSEWHERE.keys()
    assert not missing, f"run these in one of the steps above, or say in ELSEWHERE why not: {sorted(missing)}"
    assert not ELSEWHERE.keys() & site.shapes.keys()


def test_keys_and_types_are_as_they_were(site: Site) -> None:
    now = {command: merged(shapes) for command, shapes in site.shapes.items()}
    text = json.dumps(now, indent=1, sort_keys=True) + "\n"
    if os.environ.get("HOLDFAST_SNAPSHOTS") == "write":
        SNAPSHOT.write_text(text)
    difference = "\n".join(
        difflib.unified_diff(SNAPSHOT.read_text().splitlines(), text.splitlines(), "before", "now", lineterm="")
    )
    assert not difference, f"see the head of this file:\n{difference[:6000]}"
