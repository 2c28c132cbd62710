"""Every command, called wrongly as people do: a typed error, what to do about it, the exit code that says so.

A command that is new has to be given its entry in ``WRONG``. What ``--help`` says of each is in the reference, which
:mod:`test_reference` compares with the code.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.cli.main import main as run_agent
from holdfast_manager.catalog import Catalog
from holdfast_manager.cli.main import run as run_manager
from holdfast_manager.settings import ManagerSettings
from lab.command_tree import every_command


@dataclass(frozen=True)
class Wrong:
    """``arguments`` after the command's name; ``told``: words that what is printed must have."""

    arguments: str
    exit_code: int
    code: str
    told: str
    before_init: bool = False


def nobody(name: str, known: str, *, arguments: str = "{}") -> Wrong:
    """A name that does not exist; the names that do are told, or how to see them."""
    return Wrong(arguments.format(name), 10, "not_found", known)


def usage(arguments: str, told: str) -> Wrong:
    return Wrong(arguments, 2, "usage", told)


AGENT = nobody("c", "Known: a, b")
JOB = nobody("wbe", "Did you mean 'web'?")
POINT = nobody("beef", "holdfast point list")
RULE = nobody("wan", "holdfast network rule add")
REPOSITORY = nobody("mian", "Did you mean 'main'?")
SERVER = nobody("lba", "Did you mean 'lab'?")
SESSION = nobody("999", "holdfast session list")
BEFORE_INIT = Wrong("", 10, "catalog_missing", "holdfast init", before_init=True)
NO_FILE = Wrong("--config nowhere.toml", 2, "config_not_found", "nowhere.toml")

USER = nobody("alice", "holdfast user add")

WRONG = {
    "holdfast init": NO_FILE,
    "holdfast doctor": NO_FILE,
    "holdfast agent add": usage("new host:8430", "--token"),
    "holdfast agent disable": AGENT,
    "holdfast agent edit": nobody("c", "Known: a, b", arguments="{} --proxy-slots 2"),
    "holdfast agent enable": AGENT,
    "holdfast agent list": BEFORE_INIT,
    "holdfast agent remove": AGENT,
    "holdfast agent show": AGENT,
    "holdfast server add": Wrong("new --plugin imagse", 10, "plugin_missing", "did you mean 'images'?"),
    "holdfast server clean": SERVER,
    "holdfast server edit": nobody("lba", "'lab'", arguments="{} --max-tasks 2"),
    "holdfast server list": BEFORE_INIT,
    "holdfast server remove": SERVER,
    "holdfast server show": SERVER,
    "holdfast repository add": nobody("c", "Known: a, b", arguments="new --agent {} --path /srv/x --create"),
    "holdfast repository copy": usage("main main", "FROM and TO"),
    "holdfast repository edit": nobody("mian", "'main'", arguments="{} --slots 2"),
    "holdfast repository evacuate": usage("main", "is in no group"),
    "holdfast repository gc": REPOSITORY,
    "holdfast repository group create": nobody("mian", "'main'", arguments="pool --member {}"),
    "holdfast repository group edit": nobody("pool", "repository group create", arguments="{} --policy capacity"),
    "holdfast repository group list": BEFORE_INIT,
    "holdfast repository group remove": nobody("pool", "repository group create"),
    "holdfast repository group show": nobody("pool", "repository group create"),
    "holdfast repository heal": nobody("mian", "'main'", arguments="main --from {}"),
    "holdfast repository list": BEFORE_INIT,
    "holdfast repository rebuild-index": REPOSITORY,
    "holdfast repository remove": Wrong("main", 11, "in_use", "web"),
    "holdfast repository rescan": REPOSITORY,
    "holdfast repository seal": REPOSITORY,
    "holdfast repository show": REPOSITORY,
    "holdfast repository stats": REPOSITORY,
    "holdfast repository unlock": REPOSITORY,
    "holdfast repository unseal": REPOSITORY,
    "holdfast repository verify": REPOSITORY,
    "holdfast key add": REPOSITORY,
    "holdfast key change": REPOSITORY,
    "holdfast key list": REPOSITORY,
    "holdfast key paper": REPOSITORY,
    "holdfast key remove": nobody("mian", "'main'", arguments="{} deputy"),
    "holdfast key rotate": REPOSITORY,
    "holdfast network prefer": usage("", "--none"),
    "holdfast network show": BEFORE_INIT,
    "holdfast network rule add": Wrong("wan", 2, "config_invalid", "a bandwidth, a number of streams, or both"),
    "holdfast network rule disable": RULE,
    "holdfast network rule edit": nobody("wan", "holdfast network rule add", arguments="{} --streams 2"),
    "holdfast network rule enable": RULE,
    "holdfast network rule list": BEFORE_INIT,
    "holdfast network rule remove": RULE,
    "holdfast network rule show": RULE,
    "holdfast job create": usage("new", "--server"),
    "holdfast job disable": JOB,
    "holdfast job edit": usage("web", "holdfast job edit --help"),
    "holdfast job enable": JOB,
    "holdfast job list": BEFORE_INIT,
    "holdfast job remove": JOB,
    "holdfast job retry": JOB,
    "holdfast job run": JOB,
    "holdfast job show": JOB,
    "holdfast job stop": Wrong("web", 10, "not_found", "web"),
    "holdfast service run": BEFORE_INIT,
    "holdfast service show": BEFORE_INIT,
    "holdfast notifier list": NO_FILE,
    "holdfast notifier test": nobody("mail", "notifiers.NAME"),
    "holdfast session follow": SESSION,
    "holdfast session list": BEFORE_INIT,
    "holdfast session prune": usage("--older-than soon", "30 s, 10 min or 7 d"),
    "holdfast session show": SESSION,
    "holdfast session stop": SESSION,
    "holdfast report": usage("/nowhere/page.html", "/nowhere/page.html cannot be written"),
    "holdfast point diff": nobody("beef", "holdfast point list", arguments="{} cafe"),
    "holdfast point find": nobody("beef", "holdfast point list", arguments="{} *.conf"),
    "holdfast point list": BEFORE_INIT,
    "holdfast point ls": POINT,
    "holdfast point mount": nobody("beef", "holdfast point list", arguments="{} /mnt/web"),
    "holdfast point show": usage("latest", "--vm"),
    "holdfast point undo-prune": POINT,
    "holdfast point volumes": POINT,
    "holdfast prune": nobody("wbe", "'web'", arguments="--job {}"),
    "holdfast protect": POINT,
    "holdfast unprotect": POINT,
    "holdfast retention simulate": nobody("wbe", "'web'", arguments="--job {}"),
    "holdfast restore disk": usage("--point beef --to image.raw", "absolute path"),
    "holdfast restore files": nobody("beef", "holdfast point list", arguments="{}:/etc /srv/restored"),
    "holdfast restore vm": nobody("beef", "holdfast point list", arguments="--point {} --server lab"),
    "holdfast verify boot": nobody("beef", "holdfast point list", arguments="--point {}"),
    "holdfast instant list": BEFORE_INIT,
    "holdfast instant migrate": SESSION,
    "holdfast instant resume": SESSION,
    "holdfast instant start": nobody("beef", "holdfast point list", arguments="--point {} --server lab"),
    "holdfast instant stop": SESSION,
    "holdfast export discard": SESSION,
    "holdfast export list": BEFORE_INIT,
    "holdfast export resume": SESSION,
    "holdfast export start": nobody("beef", "holdfast point list", arguments="--point {}"),
    "holdfast export stop": SESSION,
    "holdfast benchmark": nobody("c", "Known: a, b", arguments="{} main"),
    "holdfast plugin check": nobody("imgs", "holdfast plugin list"),
    "holdfast plugin list": NO_FILE,
    "holdfast plugin new": usage("json --kind hypervisor", "json is a module already"),
    "holdfast approval list": BEFORE_INIT,
    "holdfast approval grant": nobody("9", "holdfast approval list"),
    "holdfast approval refuse": nobody("9", "holdfast approval list"),
    "holdfast approval require": usage("", "no other administrator"),
    "holdfast approval waive": BEFORE_INIT,
    "holdfast remote add": usage("office backup:port KEY", "is no place of a manager"),
    "holdfast remote check": nobody("office", "holdfast remote add"),
    "holdfast remote list": usage("--bogus", "--bogus"),
    "holdfast remote remove": nobody("office", "holdfast remote add"),
    "holdfast audit list": usage("--since soon", "30 s, 10 min or 7 d"),
    "holdfast audit verify": usage("--mark last", "NUMBER:SEAL"),
    "holdfast user add": usage("alice --role king", "'administrator'"),
    "holdfast user edit": USER,
    "holdfast user list": BEFORE_INIT,
    "holdfast user remove": USER,
    "holdfast user token": USER,
    "holdfast config backup": Wrong("safe", 10, "catalog_missing", "holdfast init", before_init=True),
    "holdfast config key": NO_FILE,
    "holdfast config restore": usage("nowhere.backup", "does not exist"),
    "holdfast config show": NO_FILE,
    "holdfast db migrate": BEFORE_INIT,
    "holdfast apply": Wrong("nowhere.toml", 2, "config_not_found", "nowhere.toml does not exist"),
    "holdfast-agent init": usage("--config {tmp}/new.toml", "--proxy DIR"),
    "holdfast-agent authorize": Wrong("short --config {agent}", 2, "", "40 characters"),
    "holdfast-agent run": NO_FILE,
    "holdfast-agent show": NO_FILE,
    "holdfast-agent take-over": Wrong("/elsewhere --config {agent}", 13, "", "repository.paths"),
    "holdfast-agent token": usage("--config {agent} --valid 30d", "at most 7 days"),
}


def test_every_entry_is_one_of_a_command() -> None:
    """What a new command lacks is told by :mod:`test_new_commands`."""
    assert WRONG.keys() <= set(every_command()), "there are no such commands any more"


@pytest.fixture
def agent_config(tmp_path: Path) -> Path:
    """Of an agent that was never started."""
    file = tmp_path / "agent.toml"
    made = ("init", "--config", str(file), "--state-dir", str(tmp_path / "agent"), "--repository", str(tmp_path))
    with pytest.raises(SystemExit, match="0"):
        run_agent(made)
    return file


@pytest.mark.parametrize("command", WRONG)
def test_what_is_wrong_is_told_with_what_to_do(
    command: str,
    stocked: Catalog,
    manager_settings: ManagerSettings,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = WRONG[command]
    KeyPair.generate().save(manager_settings.identity_file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "none" if wrong.before_init else manager_settings.home))
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "manager.toml"))
    monkeypatch.setenv("HOLDFAST_MANAGERS", str(tmp_path / "managers"))
    (tmp_path / "manager.toml").touch()
    program, *path = command.split()
    agent = request.getfixturevalue("agent_config") if "{agent}" in wrong.arguments else None
    capsys.readouterr()
    arguments = [*path, *shlex.split(wrong.arguments.format(agent=agent, tmp=tmp_path))]

    def called(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        if program == "holdfast":
            code = run_manager([*arguments, *more])
        else:
            with pytest.raises(SystemExit) as end:
                run_agent([*arguments, *more])
            assert isinstance(end.value.code, int)
            code = end.value.code
        return code, *capsys.readouterr()

    code, out, err = called()
    assert (code, out) == (wrong.exit_code, ""), err
    assert wrong.told in err, err
    assert "Traceback" not in err
    if program == "holdfast":
        code, out, err = called("--output", "json")
        error = json.loads(out)["error"]
        assert (code, error["exit_code"], error["code"], err) == (wrong.exit_code, wrong.exit_code, wrong.code, "")
        assert wrong.told in f"{error['message']}\n{error['action']}"
