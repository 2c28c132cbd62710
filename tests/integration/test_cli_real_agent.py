"""The command line against a real agent: what people type from the first day on, and what goes wrong on the way."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from lab.contents import assert_same
from lab.installation import Installation, installed

MIB = 1 << 20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An agent and a manager with the encrypted repository `main` and the job `web` of one small VM."""
    with installed(tmp_path_factory.mktemp("house"), snapshot="in-place") as made:
        (made.vms / "web.img").write_bytes(random.Random(3).randbytes(3 * MIB) + bytes(5 * MIB))
        made.add_repository("main", encrypted=True)
        made.add_job("web", "--retry-pause", "0.2 s", repository="main", include="web.img")
        yield made


def error_of(house: Installation, *arguments: str | Path, expect: int) -> dict[str, object]:
    document: dict[str, dict[str, object]] = house.holdfast(*arguments, expect=expect)
    return document["error"]


def test_an_agent_with_another_key_gets_no_answer(house: Installation) -> None:
    wrong = KeyPair.generate().public
    place = (f"127.0.0.1:{house.port}", wrong, "--timeout", "0.5")
    error = error_of(house, "agent", "add", "other", *place, expect=1)
    assert error["code"] == "unreachable"
    assert "each side has the other's public key" in str(error["action"])
    assert [agent["name"] for agent in house.holdfast("agent", "list")["agents"]] == ["local"]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:99999", "tcp://", "a b:1", "::1:8430", "host/path"])
def test_what_is_no_endpoint_is_refused_at_once(house: Installation, endpoint: str) -> None:
    error = error_of(house, "agent", "add", "other", endpoint, KeyPair.generate().public, expect=2)
    assert "not an agent's endpoint" in str(error["message"])


def test_what_an_agent_is_can_be_seen(house: Installation) -> None:
    shown = house.holdfast("agent", "show", "local")
    assert shown["reachable"] is True
    assert shown["agent"]["roles"] == ["proxy", "repository"]
    assert shown["agent"]["proxy_slots"] == shown["found"]["proxy_slots"] == 2
    (listed,) = house.holdfast("agent", "list", "--check")["agents"]
    assert listed["reachable"] is True


def test_a_result_that_nobody_can_take_is_told_on_stderr(house: Installation) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [house.command()[0], "agent", "list"],
            env=house.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert b"the result could not be written: No space left on device" in done.stderr


def test_a_repository_is_not_made_over_another(house: Installation) -> None:
    again = ("repository", "add", "again", "--agent", "local", "--create", "--no-encryption")
    assert error_of(house, *again, "--path", house.store / "main", expect=2)["code"] == "repository_exists"
    assert error_of(house, *again, "--path", "/etc/holdfast-test", expect=13)["code"] == "repository_denied"
    bad_name = ("repository", "add", "no good", *again[3:], "--path", house.store / "unnamed")
    assert error_of(house, *bad_name, expect=2)["code"] == "config_invalid"
    assert not (house.store / "unnamed").exists(), "nothing is made for a name that cannot be kept"


def test_an_existing_repository_opens_by_its_passphrase_only_and_once(house: Installation, tmp_path: Path) -> None:
    place = ("--agent", "local", "--path", house.store / "second")
    right, wrong = house.home / "main.pass", tmp_path / "wrong.pass"
    wrong.touch(0o600)
    wrong.write_text("not the passphrase\n")
    made = house.holdfast("repository", "add", "second", *place, "--create", "--passphrase-file", right)
    house.holdfast("repository", "remove", "second")
    error = error_of(house, "repository", "add", "second", *place, "--passphrase-file", wrong, expect=12)
    assert error["code"] == "wrong_passphrase"
    added = house.holdfast("repository", "add", "second", *place, "--passphrase-file", right)
    assert added["repository"]["repository_id"] == made["repository"]["repository_id"]
    error = error_of(house, "repository", "unlock", "second", "--passphrase-file", wrong, expect=12)
    assert error["code"] == "wrong_passphrase"
    house.holdfast("repository", "unlock", "second", "--passphrase-file", right)
    again = error_of(house, "repository", "add", "third", *place, "--passphrase-file", right, expect=2)
    assert "repository 'second'" in again["message"]
    assert house.holdfast("repository", "remove", "second")["path"] == str(house.store / "second")
    assert house.holdfast("repository", "show", "main")["free_bytes"] > 0
    missing = error_of(
        house, "repository", "add", "none", "--agent", "local", "--path", house.store / "none", expect=10
    )
    assert missing["code"] == "repository_not_found"
    below = ("--agent", "local", "--path", house.store / "none" / "main", "--create", "--no-encryption")
    assert error_of(house, "repository", "add", "none", *below, expect=10)["code"] == "repository_folder_missing"


def test_a_job_runs_and_every_view_of_it_agrees(house: Installation) -> None:
    report = house.run_job("web")
    assert (report["result"], len(report["steps"]), report["kind"]) == ("success", 10, "backup")
    assert all(step["began"] is not None for step in report["steps"])
    (point,) = report["points"]
    assert house.holdfast("session", "show", str(report["id"])) == report
    followed = subprocess.run(
        house.command("session", "follow", str(report["id"])), env=house.environment, capture_output=True, check=True
    )
    *lines, last = [json.loads(line) for line in followed.stdout.splitlines()]
    assert last["report"] == report
    assert lines[0]["event"]["kind"] == "SessionStarted"
    assert house.points("web.img")[0]["sid"] == point["sid"]
    shown = house.holdfast("point", "show", point["sid"][:8])
    assert (shown["point"]["sid"], [disk["size_bytes"] for disk in shown["disks"]]) == (point["sid"], [8 * MIB])
    assert house.holdfast("repository", "rescan", "main")["points"] == len(house.points("web.img"))
    assert house.points("web.img")[0]["session"] == report["id"], "a rescan forgets nothing that is known"


def test_a_disk_is_restored_and_not_over_what_is_there(house: Installation) -> None:
    house.run_job("web")
    target = house.out / "web.img"
    house.restore_disk("web.img", "latest", target)
    assert_same(target.read_bytes(), (house.vms / "web.img").read_bytes())
    restore = ("restore", "disk", "--vm", "web.img", "--point", "latest", "--to", target)
    report = house.holdfast(*restore, expect=2)
    assert [(each["code"], each["about"]) for each in report["problems"]] == [("disk_exists", "web.img/web.img")]
    house.holdfast(*restore, "--overwrite")
    wrong_disk = error_of(house, *restore, "--disk", "wbe.img", expect=10)
    assert "It has web.img" in str(wrong_disk["action"])


def test_damage_is_found_and_exits_with_14(house: Installation, tmp_path: Path) -> None:
    house.add_repository("frail", encrypted=False)
    house.add_job("frail", repository="frail", include="web.img")
    house.run_job("frail")
    assert house.holdfast("repository", "verify", "frail", "--level", "1")["result"] == "success"
    pack = max((house.store / "frail").rglob("*-d*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 0xFF
    pack.write_bytes(content)
    report = house.holdfast("repository", "verify", "frail", "--level", "1", expect=14)
    assert any(problem["code"] == "verification_failed" for problem in report["problems"])
    assert any(pack.name in problem["message"] for problem in report["problems"])


def test_ctrl_c_stops_the_session_and_waits_for_it(house: Installation) -> None:
    house.add_job("slow", "--bandwidth", "16 KiB", "--compression", "none", repository="main", include="slow.img")
    (house.vms / "slow.img").write_bytes(random.Random(4).randbytes(2 * MIB))
    command = [house.command()[0], "job", "run", "slow"]
    with subprocess.Popen(
        command, env=house.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if "transfer" in line:
                break
        assert error_of(house, "job", "run", "slow", expect=11)["code"] == "locked"
        process.send_signal(signal.SIGINT)
        assert "stopping session" in process.stderr.read()
        told = process.stdout.read()
    assert process.returncode == 130
    assert "backup by job slow: cancelled" in told
    (session,) = house.holdfast("session", "list", "--job", "slow")["sessions"]
    assert (session["state"], session["result"]) == ("ended", "cancelled")
    assert house.points("slow.img") == []


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(house: Installation) -> None:
    house.add_job("seen", "--bandwidth", "2 MiB", repository="main", include="seen.img")
    (house.vms / "seen.img").write_bytes(random.Random(5).randbytes(4 * MIB))
    ours, theirs = os.openpty()
    command = [house.command()[0], "job", "run", "seen"]
    with subprocess.Popen(
        command, env={**house.environment, "TERM": "xterm", "COLUMNS": "120"}, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with (
            contextlib.suppress(OSError),
            os.fdopen(ours, "rb", buffering=0) as terminal,
        ):  # EIO when the last writer closes
            while piece := terminal.read(65536):
                shown += piece
        assert process.stdout is not None
        told = process.stdout.read().decode()
    assert process.returncode == 0
    assert re.search(
        r"seen\.img/seen\.img .*\d%  [\d.]+ MiB of 4\.00 MiB  [\d.]+ [KM]iB/s  [\d.]+ s left", shown.decode()
    )
    assert "\x1b" not in told, "the result is plain text, wherever progress went"


def test_a_detached_job_is_followed_by_its_number(house: Installation) -> None:
    number = house.holdfast("job", "run", "web", "--detach")["session"]
    followed = subprocess.run(
        house.command("session", "follow", str(number)), env=house.environment, capture_output=True, check=False
    )
    assert followed.returncode == 0
    assert json.loads(followed.stdout.splitlines()[-1])["report"]["result"] == "success"


def test_a_session_whose_process_cannot_begin_says_where_its_log_is(house: Installation, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("import sys\nsys.modules['holdfast_manager.sessions.program'] = None\n")
    done = subprocess.run(
        house.command("job", "run", "web"),
        env={**house.environment, "PYTHONPATH": str(broken)},
        capture_output=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["result"], report["error"]["code"]) == (1, "failed", "session_not_started")
    log = Path(report["error"]["fields"]["log"])
    assert "holdfast_manager.sessions.program" in log.read_text()


def test_apply_enrols_a_whole_site_and_is_idempotent(house: Installation, tmp_path: Path) -> None:
    key = house.holdfast("agent", "show", "local")["agent"]["public_key"]
    passphrase = tmp_path / "site.pass"
    passphrase.touch(0o600)
    passphrase.write_text("correct horse battery\n")
    site = tmp_path / "site.toml"
    site.write_text(
        f"""
        [agents.second]
        endpoint = "127.0.0.1:{house.port}"
        public_key = {json.dumps(key)}
        [servers.lab2]
        plugin = "images"
        options.path = "{house.vms}"
        options.snapshot = "in-place"
        [repositories.site]
        agent = "second"
        path = "{house.store / "site"}"
        passphrase_file = "site.pass"
        [jobs.site]
        server = "lab2"
        repository = "site"
        include = ["web.img"]
        """
    )
    dry = house.holdfast("apply", site, "--dry-run")
    assert (dry["dry_run"], {change["action"] for change in dry["changes"]}) == (True, {"create"})
    assert not (house.store / "site").exists()
    house.holdfast("apply", site)
    assert {change["action"] for change in house.holdfast("apply", site)["changes"]} == {"unchanged"}
    assert house.run_job("site")["result"] == "success"
    passphrase.write_text("another passphrase\n")
    house.holdfast("job", "remove", "site")
    house.holdfast("repository", "remove", "site")
    assert error_of(house, "apply", site, expect=12)["code"] == "wrong_passphrase"
    assert "site" not in [job["job"]["name"] for job in house.holdfast("job", "list")["jobs"]], "all or nothing"


def test_nothing_secret_stands_in_a_command_line_or_a_log(house: Installation) -> None:
    passphrase = (house.home / "main.pass").read_text().strip()
    home = Path(house.environment["HOLDFAST_HOME"])
    for file in [*home.rglob("*"), house.home / "agent.log"]:
        if file.is_file():
            assert passphrase.encode() not in file.read_bytes(), file
