"""Commands that need no agent: what they print, in both forms, and the exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from holdfast_agent.model.ids import Sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.tables import sessions
from holdfast_manager.catalog.values import (
    CopySettings,
    PointEntryRow,
    PointState,
    RepositoryEntry,
    ServerLimits,
    SessionResult,
    SessionState,
)
from holdfast_manager.cli.output import styled
from holdfast_manager.host import PluginHost
from holdfast_manager.schedules.schedule import JobSchedule
from holdfast_manager.settings import ManagerSettings
from lab.command_line import Holdfast

SIDS = ("3f2a1b0c" + "0" * 24, "3f2a9999" + "0" * 24, "77000000" + "0" * 24)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory of two VMs for the plugin `images`."""
    directory = tmp_path / "vms"
    directory.mkdir()
    for name in ("db.img", "web.img"):
        (directory / name).write_bytes(bytes(4096))
    return directory


def test_init_makes_everything_once(tmp_path: Path, holdfast: Holdfast, manager_settings: ManagerSettings) -> None:
    first = holdfast("init", "--output", "json")
    assert (first.code, first.json["created"]) == (0, True)
    home = Path(manager_settings.data_dir)
    assert home.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()} == {
        "catalog.db": 0o600, "catalog.key": 0o600, "manager.key": 0o600,
    }  # fmt: skip
    again = holdfast("init", "--output", "json").json
    assert again == {**first.json, "created": False}
    text = holdfast("init")
    assert f"holdfast-agent authorize '{first.json['public_key']}'" in text.out


def test_a_bad_name_is_told_what_a_name_is(holdfast: Holdfast, images: Path) -> None:
    holdfast("init")
    done = holdfast("server", "add", "my lab", "--plugin", "images", "--option", f"path={images}")
    assert done.code == 2
    assert "a name is 1 to 64 letters, digits, dots, dashes and underscores" in done.err and "regex" not in done.err


def test_colours_are_left_out_for_who_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("Error", fg="red") != "Error"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("Error", fg="red") == "Error"


def test_a_database_is_migrated_by_hand_only_once_it_is_there(holdfast: Holdfast) -> None:
    assert holdfast("db", "migrate").code == 10
    holdfast("init")
    assert "is up to date" in holdfast("db", "migrate").out


def test_before_init_every_command_says_so(holdfast: Holdfast) -> None:
    done = holdfast("job", "list")
    assert (done.code, done.out) == (10, "")
    assert "there is no configuration database" in done.err
    assert "holdfast init" in done.err
    as_json = holdfast("--output", "json", "job", "list")
    assert as_json.code == as_json.json["error"]["exit_code"] == 10
    assert as_json.json["error"]["code"] == "catalog_missing"


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("job", "lst"),
        ("job", "list", "--nothing"),
        ("job", "run"),
        ("session", "show", "zero"),
        ("repository", "verify", "main", "--level", "3"),
    ],
)
def test_wrong_usage_is_2_in_both_forms(holdfast: Holdfast, stocked: Catalog, arguments: tuple[str, ...]) -> None:
    text = holdfast(*arguments)
    assert (text.code, text.out) == (2, "")
    assert "Usage: holdfast" in text.err
    as_json = holdfast("--output=json", *arguments)
    assert as_json.code == 2
    assert as_json.json["error"]["code"] == "usage"


def test_what_is_missing_is_told_with_what_it_is(holdfast: Holdfast, stocked: Catalog) -> None:
    assert "Missing option '--point'. An id, the beginning of one" in holdfast("restore", "disk", "--to", "/x").err


def test_who_asks_for_help_in_another_way_gets_it(holdfast: Holdfast) -> None:
    assert "Usage: holdfast job" in holdfast("job", "-h").out
    assert "`holdfast job --help` shows help" in holdfast("job", "help").err


def test_a_slip_in_a_command_gets_the_nearest(holdfast: Holdfast) -> None:
    assert "did you mean 'list'?" in holdfast("job", "lst").err


@pytest.mark.parametrize(
    "group",
    [
        ("agent", "add list show remove"),
        ("server", "add list show remove clean"),
        ("repository", "add list show verify rescan rebuild-index unlock remove"),
        ("job", "create list show edit remove enable disable run stop"),
        ("session", "list show follow stop"),
        ("point", "list show"),
        ("restore", "disk vm"),
        ("plugin", "list check new"),
        ("config", "show"),
        ("db", "migrate"),
    ],
)
def test_each_command_has_help_with_examples(holdfast: Holdfast, group: tuple[str, str]) -> None:
    name, commands = group
    for command in commands.split():
        done = holdfast(name, command, "--help")
        assert done.code == 0
        _, heading, examples = done.out.partition("Examples:\n")
        assert heading, f"{name} {command}"
        assert f"  holdfast {name} {command}" in examples
        assert "--output" in done.out


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("job", "show", "wbe"), "web"),
        (("job", "run", "webb"), "web"),
        (("server", "show", "lap"), "lab"),
        (("repository", "show", "mian"), "main"),
        (("repository", "verify", "mian"), "main"),
        (("point", "list", "--repository", "mian"), "main"),
    ],
)
def test_a_name_that_does_not_exist_is_10_with_the_nearest(
    holdfast: Holdfast, stocked: Catalog, arguments: tuple[str, ...], nearest: str
) -> None:
    done = holdfast(*arguments)
    assert done.code == 10
    assert f"Did you mean '{nearest}'?" in done.err
    assert "Traceback" not in done.err


def test_an_unexpected_error_is_internal_and_leaves_a_log(
    holdfast: Holdfast, stocked: Catalog, monkeypatch: pytest.MonkeyPatch, manager_settings: ManagerSettings
) -> None:
    def broken(self: object) -> None:
        raise ZeroDivisionError("a defect for the test")

    monkeypatch.setattr(PluginHost, "report", broken)
    done = holdfast("plugin", "list", "--output", "json")
    error = done.json["error"]
    assert (done.code, error["code"], done.err) == (1, "internal_error", "")
    (log,) = manager_settings.log_dir.glob("cli-*.log")
    assert str(log) in error["action"]
    assert "a defect for the test" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


# --- servers ----------------------------------------------------------------------------------------------------------


def test_a_server_is_tried_and_its_secrets_are_kept_sealed(
    holdfast: Holdfast, stocked: Catalog, images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "lab.env"
    file.write_text("# of the lab\nuser=operator\n")
    file.chmod(0o600)
    done = holdfast(
        "server", "add", "two", "--plugin", "images", "--option", f"path={images}", "--secret-file", file,
        "--secret", "password", "--secret", "user", stdin="s3cret of the server\n",
    )  # fmt: skip
    assert (done.code, done.out) == (0, "Added server two: 2 VMs\n")
    assert stocked.servers.secret("two") == {"user": "operator", "password": "s3cret of the server"}
    shown = holdfast("server", "show", "two", "--output", "json")
    assert [vm["name"] for vm in shown.json["vms"]] == ["db.img", "web.img"]
    for arguments in (("server", "show", "two"), ("server", "list"), ("server", "list", "--output", "json")):
        assert "s3cret" not in holdfast(*arguments).out


def test_a_secret_file_that_others_may_read_is_refused(
    holdfast: Holdfast, stocked: Catalog, images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "lab.env"
    file.write_text("user=operator\n")
    file.chmod(0o644)
    done = holdfast("server", "add", "two", "--plugin", "images", "--option", f"path={images}", "--secret-file", file)
    assert done.code == 13
    assert f"chmod 600 {file}" in done.err


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--plugin", "imagse"), 10, "did you mean 'images'?"),
        (("--plugin", "images", "--option", "pth=/srv"), 2, "did you mean 'path'?"),
        (("--plugin", "images", "--option", "path=relative"), 2, "absolute path"),
        (("--plugin", "images", "--option", "path=7"), 2, "Expected text, got a whole number"),
        (("--plugin", "images", "--option", "path"), 2, "KEY=VALUE"),
        (("--plugin", "images", "--option", "path=/no/such/directory"), 1, "cannot be reached"),
    ],
)
def test_a_server_with_wrong_options_is_not_added(
    holdfast: Holdfast, stocked: Catalog, options: tuple[str, ...], code: int, told: str
) -> None:
    done = holdfast("server", "add", "two", *options)
    assert done.code == code
    assert told in done.err
    assert [server.name for server in stocked.servers.list()] == ["lab"]


def test_clean_removes_what_dead_sessions_left_and_tells_what_it_could_not(
    holdfast: Holdfast, stocked: Catalog, images: Path
) -> None:
    holdfast("server", "add", "two", "--plugin", "images", "--option", f"path={images}")
    session = stocked.sessions.begin_job("web")
    stocked.sessions.end(session.id, SessionResult.FAILED)
    stocked.obligations.write(session.id, "two", "images", "no such kind", {})
    done = holdfast("server", "clean", "two", "--output", "json")
    assert (done.code, done.json["removed"], len(done.json["failed"])) == (1, 0, 1)
    assert stocked.obligations.open_of(server="two")[0].attempts == 1
    refused = holdfast("server", "remove", "two")
    assert (refused.code, "open obligations" in refused.err) == (11, True)


# --- network ----------------------------------------------------------------------------------------------------------


def test_a_traffic_rule_is_added_edited_and_shown(holdfast: Holdfast, stocked: Catalog) -> None:
    made = holdfast(
        "network", "rule", "add", "wan", "--source", "10.0.0.0/16", "--target", "10.8.0.0/16", "--target", "10.9.0.1",
        "--bandwidth", "5 MiB", "--streams", "4", "--window", "mon-fri 08:00-18:00", "--time-zone", "Europe/Berlin",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert "Added traffic rule wan: 5.00 MiB/s, 4 streams between 10.0.0.0/16 and 10.8.0.0/16, 10.9.0.1" in made.out
    holdfast("network", "rule", "edit", "wan", "--one-way", "--reset", "streams", "--reset", "window")
    rule = holdfast("network", "rule", "show", "wan", "--output", "json").json["rule"]
    assert (rule["source"], rule["target"]) == (["10.0.0.0/16"], ["10.8.0.0/16", "10.9.0.1"])
    assert (rule["bandwidth"], rule["one_way"], rule["windows"], rule["in_force"]) == (5 << 20, True, [], True)
    assert "streams" not in rule
    assert "10.0.0.0/16 to 10.8.0.0/16" in holdfast("network", "rule", "list").out
    holdfast("network", "rule", "disable", "wan")
    assert "disabled" in holdfast("network", "show").out
    holdfast("network", "rule", "enable", "wan")
    assert stocked.traffic_rules.get("wan").enabled
    assert holdfast("network", "rule", "remove", "wan").code == 0
    assert stocked.traffic_rules.list() == ()


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("add", "new"), 2, "says something"),
        (("add", "new", "--bandwidth", "5 MiB", "--source", "here"), 2, "write a network such as"),
        (("add", "new", "--bandwidth", "5 MiB", "--window", "noon"), 2, "no time window"),
        (("add", "new", "--bandwidth", "1 KB"), 2, ">= 1024"),
        (("add", "wan", "--streams", "2"), 2, "exists already"),
        (("edit", "wan"), 2, "nothing to change"),
        (("edit", "wan", "--reset", "name"), 2, "there are"),
        (("edit", "wam", "--streams", "2"), 10, "Did you mean 'wan'?"),
        (("remove", "lan"), 10, "wan"),
    ],
)
def test_a_wrong_rule_is_refused(
    holdfast: Holdfast, stocked: Catalog, options: tuple[str, ...], code: int, told: str
) -> None:
    assert holdfast("network", "rule", "add", "wan", "--streams", "3").code == 0
    refused = holdfast("network", "rule", *options)
    assert (refused.code, told in refused.err) == (code, True), refused.err
    assert [rule.name for rule in stocked.traffic_rules.list()] == ["wan"]


def test_networks_are_preferred_in_their_order(holdfast: Holdfast, stocked: Catalog) -> None:
    assert holdfast("network", "prefer", "10.1.0.0/16", "10.0.0.0/8").code == 0
    assert holdfast("network", "show", "--output", "json").json["preferred"] == ["10.1.0.0/16", "10.0.0.0/8"]
    assert holdfast("network", "prefer", "10.1.0.0/8").code == 2
    assert holdfast("network", "prefer").code == 2
    assert holdfast("network", "prefer", "--none").code == 0
    assert stocked.traffic_rules.preferred() == ()


def test_the_limits_of_a_repository_are_set_and_lifted(holdfast: Holdfast, stocked: Catalog) -> None:
    done = holdfast("repository", "edit", "main", "--write-limit", "2 MiB", "--read-limit", "4 MiB", "--slots", "6")
    assert "6 slots, read 4.00 MiB/s, write 2.00 MiB/s for all tasks together" in done.out
    assert holdfast("repository", "edit", "main", "--reset", "read-limit").code == 0
    entry = stocked.repositories.get("main")
    assert (entry.slots, entry.read_limit_bytes_per_s, entry.write_limit_bytes_per_s) == (6, None, 2 << 20)
    assert holdfast("repository", "edit", "main").code == 2
    assert holdfast("repository", "edit", "main", "--read-limit", "12").code == 2


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_is_created_edited_and_shown(holdfast: Holdfast, stocked: Catalog) -> None:
    made = holdfast(
        "job", "create", "nightly", "--server", "lab", "--include", "*", "--exclude", "test-*", "--repository", "main",
        "--proxy", "b", "--bandwidth", "50 MiB", "--retry-pause", "1 min", "--guest-processor", "scripts",
        "--guest-option", "pre_freeze=/bin/true", "--guest-policy", "try", "--snapshot-option", "method=copy",
    )  # fmt: skip
    assert made.code == 0, made.err
    holdfast("job", "edit", "nightly", "--include", "web", "--include", "db", "--guest-policy", "require")
    job = holdfast("job", "show", "nightly", "--output", "json").json["job"]
    assert (job["include"], job["exclude"], job["proxies"]) == (["web", "db"], ["test-*"], ["b"])
    assert (job["bandwidth"], job["retry_pause"], job["snapshot"]) == (50 << 20, 60, {"method": "copy"})
    assert job["guest"] == {"processor": "scripts", "policy": "require", "options": {"pre_freeze": "/bin/true"}}
    holdfast("job", "edit", "nightly", "--audit", "1%", "--on-cbt-loss", "fail")
    shown = holdfast("job", "show", "nightly").out
    assert "1 % of the unchanged blocks of each disk" in shown and "fail" in shown
    holdfast("job", "edit", "nightly", "--audit", "0")
    assert "off: what change tracking misses" in holdfast("job", "show", "nightly").out
    assert "kept, bit for bit" in holdfast("job", "show", "nightly").out
    for option, skips in (("--skip-unused", True), ("--no-skip-unused", False)):
        holdfast("job", "edit", "nightly", option)
        assert holdfast("job", "show", "nightly", "--output", "json").json["job"]["skip_unused"] is skips
        holdfast("job", "edit", "nightly", "--audit", "7")
        assert stocked.jobs.get("nightly").skip_unused is skips, "what is not named stays"
    holdfast("job", "edit", "nightly", "--reset", "bandwidth", "--reset", "guest")
    job = holdfast("job", "show", "nightly", "--output", "json").json["job"]
    assert "bandwidth" not in job
    assert "guest" not in job
    holdfast("job", "disable", "nightly")
    assert "disabled" in holdfast("job", "list").out
    holdfast("job", "enable", "nightly")
    assert holdfast("job", "remove", "nightly").code == 0
    assert [spec.name for spec in stocked.jobs.list()] == ["web"]


def test_a_copy_job_is_created_edited_and_shown(holdfast: Holdfast, stocked: Catalog) -> None:
    far = RepositoryEntry(name="far", agent="a", path="/far", repository_id="22" * 16, encrypted=False)
    stocked.repositories.add(far)
    made = holdfast(
        "job", "create", "off", "--copy-from", "main", "--repository", "far", "--copy-job", "web*", "--immediate",
        "--window", "22:00-06:00", "--keep-monthly", "12", "--exclude", "test-*",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert re.search(r"off +copy of main +all but not test-\* +far +for each new point", holdfast("job", "list").out)
    shown = holdfast("job", "show", "off").out
    assert "for each new restore point" in shown and "Audit" not in shown
    holdfast("job", "edit", "off", "--copy-suspect", "--not-immediate", "--after", "web")
    spec = stocked.jobs.get("off")
    assert spec.copy == CopySettings(origin="main", jobs=("web*",), suspect=True)
    assert spec.schedule == JobSchedule(after="web", windows=("22:00-06:00",))
    for options, told in (
        (("--repository", "main"), "the repository that the copies go to"),
        (("--audit", "5"), "audit is for backups"),
        (("--server", "lab"), "server is for backups"),
        (("--copy-from", "mian"), "Did you mean 'main'?"),
    ):
        refused = holdfast("job", "edit", "off", *options)
        assert refused.code in (2, 10) and told in refused.err
    assert "immediate is for jobs that copy" in holdfast("job", "edit", "web", "--immediate").err
    assert stocked.jobs.get("off") == spec


def test_a_job_comes_from_a_file_and_options_win(holdfast: Holdfast, stocked: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('server = "lab"\nrepository = "main"\ninclude = ["a"]\nblock_size = "256 KiB"\nretries = 1\n')
    assert holdfast("job", "create", "f", "--from", file, "--retries", "7").code == 0
    spec = stocked.jobs.get("f")
    assert (spec.block_bytes, spec.retries, spec.include) == (256 << 10, 7, ("a",))
    file.write_text('server = "lab"\nrepository = "main"\ninclde = ["a"]\ninclude = ["a"]\n')
    done = holdfast("job", "create", "g", "--from", file)
    assert done.code == 2
    assert f"{file}: unknown key 'inclde'; did you mean 'include'?" in done.err


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ((), 2, "needs --server"),
        (("--server", "lab", "--repository", "main"), 2, "needs --include"),
        (("--server", "lab", "--repository", "mian", "--include", "*"), 10, "Did you mean 'main'?"),
        (("--server", "lab", "--repository", "main", "--include", "*", "--block-size", "3 MiB"), 2, "power of two"),
        (("--server", "lab", "--repository", "main", "--include", "*", "--bandwidth", "fast"), 2, "is not a size"),
        (("--server", "lab", "--repository", "main", "--include", "*", "--proxy", "c"), 10, "no agent named 'c'"),
        (
            ("--server", "lab", "--repository", "main", "--include", "*", "--snapshot-option", "mothed=copy"),
            2, "did you mean 'method'?",
        ),
        (
            ("--server", "lab", "--repository", "main", "--include", "*", "--guest-processor", "script"),
            10, "did you mean 'scripts'?",
        ),
    ],
)  # fmt: skip
def test_a_wrong_job_is_not_created(
    holdfast: Holdfast, stocked: Catalog, options: tuple[str, ...], code: int, told: str
) -> None:
    done = holdfast("job", "create", "nightly", *options)
    assert (done.code, told in done.err) == (code, True), done.err
    assert [spec.name for spec in stocked.jobs.list()] == ["web"]


def test_a_job_that_runs_is_locked_and_can_be_asked_to_stop(holdfast: Holdfast, stocked: Catalog) -> None:
    running = stocked.sessions.begin_job("web")
    done = holdfast("job", "run", "web")
    assert (done.code, done.out) == (11, "")
    assert f"session {running.id} (process" in done.err
    assert holdfast("job", "remove", "web").code == 11
    stopped = holdfast("job", "stop", "web", "--output", "json")
    assert stopped.json == {"stopping": [running.id]}
    assert stocked.sessions.stop_requested(running.id)
    stocked.sessions.end(running.id, SessionResult.CANCELLED)
    assert holdfast("job", "stop", "web").code == 10


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_following_a_session_whose_process_died_ends_with_1(holdfast: Holdfast, stocked: Catalog) -> None:
    session = stocked.sessions.begin_job("web")
    me = ProcessIdentity.current()
    with stocked.database.writing() as connection:
        dead = {"host": me.host, "boot_id": me.boot_id, "pid": me.pid, "start_ticks": me.start_ticks - 1}
        connection.execute(sessions.update().where(sessions.c.id == session.id).values(process=dead, state="running"))
    done = holdfast("session", "follow", str(session.id))
    assert done.code == 1
    assert "the session process died" in done.out
    assert "Run the job again" in done.out
    assert stocked.sessions.get(session.id).state is SessionState.ENDED
    listed = holdfast("session", "list", "--job", "web", "--output", "json").json["sessions"]
    assert [(entry["id"], entry["result"]) for entry in listed] == [(session.id, "failed")]


@pytest.mark.parametrize(
    ("result", "options", "code"),
    [
        (SessionResult.SUCCESS, (), 0),
        (SessionResult.WARNING, (), 0),
        (SessionResult.WARNING, ("--strict",), 4),
        (SessionResult.PARTIAL, (), 3),
        (SessionResult.FAILED, (), 1),
        (SessionResult.CANCELLED, (), 130),
    ],
)
def test_following_exits_as_the_session_ended(
    holdfast: Holdfast, stocked: Catalog, result: SessionResult, options: tuple[str, ...], code: int
) -> None:
    session = stocked.sessions.begin_job("web")
    stocked.sessions.end(session.id, result)
    done = holdfast("session", "follow", str(session.id), *options)
    assert done.code == code
    assert f"backup by job web: {result.value}" in done.out
    last = holdfast("session", "follow", str(session.id), "--output", "json", *options)
    assert last.code == code
    assert json.loads(last.out.splitlines()[-1])["report"]["result"] == result.value


def test_without_a_number_it_is_the_newest_session(holdfast: Holdfast, stocked: Catalog) -> None:
    for command in ("show", "follow"):
        nothing = holdfast("session", command)
        assert (nothing.code, "holdfast job run" in nothing.err) == (10, True)
    for _ in range(2):
        newest = stocked.sessions.begin_job("web").id
        stocked.sessions.end(newest, SessionResult.SUCCESS)
    assert holdfast("session", "show", "--output", "json").json["id"] == newest
    assert f"Session {newest}: " in holdfast("session", "follow").out


def test_stopping_a_session_that_has_ended_changes_nothing(holdfast: Holdfast, stocked: Catalog) -> None:
    session = stocked.sessions.begin_job("web")
    stocked.sessions.end(session.id, SessionResult.SUCCESS)
    assert "has ended already: success" in holdfast("session", "stop", str(session.id)).out
    assert holdfast("session", "stop", "999").code == 10


# --- points and restores ----------------------------------------------------------------------------------------------


@pytest.fixture
def points(stocked: Catalog) -> Catalog:
    """Three points: two of "web", of which the newer is suspect, one of "db"."""
    for number, (sid, vm) in enumerate(zip(SIDS, ("web", "web", "db"), strict=True)):
        state = PointState.SUSPECT if number == 1 else PointState.OK
        stocked.points.add(
            PointEntryRow(
                sid=Sid(sid),
                repository="main",
                server="lab",
                job="web",
                vm_id=vm,
                vm_name=vm,
                created=1_800_000_000.0 + number,
                size_bytes=1 << 30,
                stored_bytes=1 << 20,
                state=state,
            )
        )
    return stocked


def test_points_are_listed_newest_first_and_filtered(holdfast: Holdfast, points: Catalog) -> None:
    listed = holdfast("point", "list", "--output", "json").json["points"]
    assert [point["sid"] for point in listed] == [SIDS[2], SIDS[1], SIDS[0]]
    text = holdfast("point", "list", "--vm", "web").out
    assert [line.split()[0] for line in text.splitlines()] == ["point", SIDS[1][:12], SIDS[0][:12]]
    assert "suspect" in text
    assert holdfast("point", "list", "--vm", "nobody").out.startswith("No restore points; ")


RESTORE = ("restore", "vm", "--server", "lab", "--detach")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--point", "3f2a"), 2, "several restore points begin with '3f2a'"),
        (("--point", "3f2"), 2, "at least its first 4 digits"),
        (("--point", "beef"), 10, "holdfast point list"),
        (("--point", "latest"), 2, "needs --vm"),
        (("--point", "latest", "--vm", "nobody"), 10, "holdfast point list"),
        (("--point", "7700", "--vm", "web"), 2, "is of the VM 'db'"),
        (("--point", "7700", "--proxy", "c"), 10, "no agent named 'c'"),
    ],
)
def test_a_restore_of_what_is_not_there_begins_no_session(
    holdfast: Holdfast, points: Catalog, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = holdfast(*RESTORE, *arguments)
    assert (done.code, told in done.err) == (code, True), done.err
    assert points.sessions.list() == ()


@pytest.mark.parametrize("target", ["relative.img", "/", "/srv/../etc/passwd"])
def test_a_disk_is_restored_to_an_absolute_path_only(holdfast: Holdfast, points: Catalog, target: str) -> None:
    done = holdfast("restore", "disk", "--point", "7700", "--to", target, "--proxy", "a")
    assert (done.code, "absolute path" in done.err) == (2, True)


def test_the_proxy_may_be_left_out_only_where_there_is_one(holdfast: Holdfast, points: Catalog) -> None:
    done = holdfast("restore", "disk", "--point", "7700", "--to", "/srv/x.img")
    assert (done.code, "one of a, b" in done.err) == (2, True)


# --- plugins and configuration ----------------------------------------------------------------------------------------


def test_plugins_and_configuration_are_shown(holdfast: Holdfast, stocked: Catalog, tmp_path: Path) -> None:
    plugins = {each["name"]: each for each in holdfast("plugin", "list", "--output", "json").json["plugins"]}
    assert plugins["images"]["status"] == "loaded"
    assert "hypervisor images" in holdfast("plugin", "list").out
    file = tmp_path / "own.toml"
    file.write_text('[database]\nurl = "postgresql://holdfast:pa55@db/holdfast"\n[timing]\npoll = "2 s"\n')
    shown = holdfast("config", "show", "--config", file)
    assert (shown.code, "pa55" in shown.out, "poll = 2.0" in shown.out) == (0, False, True)
    file.write_text("[timing]\npol = 1\n")
    wrong = holdfast("--config", file, "config", "show")
    assert (wrong.code, "did you mean 'poll'?" in wrong.err) == (2, True)


def test_plugin_check_shows_options_and_tries_a_server(holdfast: Holdfast, stocked: Catalog, images: Path) -> None:
    told = holdfast("plugin", "check", "images").out
    assert "hypervisor images: " in told
    assert re.search(r"^  path +str +required$", told, re.MULTILINE)
    holdfast("server", "add", "real", "--plugin", "images", "--option", f"path={images}")
    checked = holdfast("plugin", "check", "images", "--server", "real", "--output", "json").json
    assert [(vm["vm"]["name"], vm["disks"], vm["size_bytes"]) for vm in checked["server"]["vms"]] == [
        ("db.img", 1, 4096), ("web.img", 1, 4096),
    ]  # fmt: skip
    assert "web.img  1      described" in holdfast("plugin", "check", "images", "--server", "real").out


def test_plugin_check_says_what_is_wrong(holdfast: Holdfast, stocked: Catalog) -> None:
    assert holdfast("plugin", "check", "nosuch").code == 10
    assert holdfast("plugin", "check", "scripts", "--server", "lab").code == 10
    done = holdfast("plugin", "check", "images", "--server", "lab")
    assert done.code == 1
    assert "/vms" in done.err


def test_plugin_new_refuses_a_kind_that_is_none(holdfast: Holdfast, tmp_path: Path) -> None:
    assert holdfast("plugin", "new", "x", "--kind", "hypervizor", "--directory", tmp_path / "x").code == 2
    done = holdfast("plugin", "new", "json", "--kind", "hypervisor", "--directory", tmp_path / "x")
    assert (done.code, "json is a module already" in done.err) == (2, True)


def test_a_server_is_edited_and_what_is_not_named_stays(holdfast: Holdfast, stocked: Catalog, tmp_path: Path) -> None:
    vms = tmp_path / "vms"
    (vms / "web").mkdir(parents=True)
    (vms / "web" / "disk.raw").write_bytes(bytes(512))
    assert holdfast("server", "edit", "lab").code == 2
    assert holdfast("server", "edit", "lba", "--max-tasks", "4").code == 10
    assert holdfast("server", "edit", "lab", "--max-tasks", "0").code == 2
    done = holdfast("server", "edit", "lab", "--max-tasks", "4", "--max-tasks-per-host", "2")
    assert done.code == 0, done.err
    assert stocked.servers.get("lab").limits == ServerLimits(tasks=4, tasks_per_host=2)
    assert holdfast("server", "edit", "lab", "--reset", "max-tasks").code == 0
    assert stocked.servers.get("lab").limits == ServerLimits(tasks_per_host=2)
    assert holdfast("server", "edit", "lab", "--reset", "max-tasks-per-host").code == 0
    assert stocked.servers.get("lab").limits is None
    before = stocked.servers.get("lab")
    assert holdfast("server", "edit", "lab", "--option", f"path={tmp_path / 'nowhere'}").code != 0
    assert holdfast("server", "edit", "lab", "--option", "paht=/").code == 2
    assert stocked.servers.get("lab") == before, "what does not work is not kept"
    assert holdfast("server", "edit", "lab", "--option", f"path={vms}", "--option", "snapshot=in-place").code == 0
    assert stocked.servers.get("lab").options == {"path": str(vms), "snapshot": "in-place"}
    assert holdfast("server", "edit", "lab", "--reset-option", "snapshot").code == 0
    assert stocked.servers.get("lab").options == {"path": str(vms)}
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("user=me\n")
    assert holdfast("server", "edit", "lab", "--secret-file", secret).code == 0
    assert holdfast("server", "edit", "lab", "--secret", "word", stdin="hush\n").code == 0
    assert stocked.servers.secret("lab") == {"user": "me", "word": "hush"}


def test_an_agent_goes_into_maintenance_and_comes_back(holdfast: Holdfast, stocked: Catalog) -> None:
    assert holdfast("agent", "disable", "b").code == 0
    assert not stocked.agents.get("b").enabled
    assert stocked.agents.proxies() == ("a",)
    assert holdfast("agent", "edit", "b", "--proxy-slots", "7").code == 0
    assert (stocked.agents.get("b").proxy_slots, stocked.agents.get("b").enabled) == (7, False)
    assert holdfast("agent", "enable", "b").code == 0
    assert stocked.agents.get("b").enabled
    assert holdfast("agent", "edit", "b").code == 2
    assert holdfast("agent", "enable", "c").code == 10
