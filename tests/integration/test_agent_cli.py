"""The command line of the agent, as a user types it, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import Unreachable
from holdfast_agent.wire.messages import Done, Heartbeat
from lab.agents import start_agent

KEY = KeyPair.generate()
IDLE_LIMIT_KIB = 60 << 10


def _holdfast_agent(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", "from holdfast_agent.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration and keys made by ``init``."""
    done = _init(tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "agent.toml"


def _init(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (directory / "disks").mkdir(exist_ok=True)
    return _holdfast_agent(
        "init", "--config", directory / "agent.toml", "--proxy", directory / "disks", "--state-dir",
        directory / "state", "--listen", "127.0.0.1:0", "--name", "lab", "--yes", *more,
    )  # fmt: skip


def test_init_makes_keys_and_a_commented_configuration(tmp_path: Path, config: Path) -> None:
    key_file = tmp_path / "state" / "agent.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert "# Directories below which disks may be opened." in config.read_text()
    shown = _holdfast_agent("show", "--output", "json", HOLDFAST_AGENT_CONFIG=str(config))
    facts = json.loads(shown.stdout)
    assert facts["public_key"] == KeyPair.load(key_file).public
    assert facts["endpoint"] is None
    assert facts["roles"] == ["proxy"]
    assert facts["config"]["proxy"]["paths"] == [str(tmp_path / "disks")]
    assert key_file.read_text().strip() not in shown.stdout


def test_init_again_changes_nothing_and_says_the_same_key(tmp_path: Path, config: Path) -> None:
    files = [config, tmp_path / "state" / "agent.key"]
    before = [file.read_bytes() for file in files]
    again = _init(tmp_path, "--repository", "/elsewhere")
    assert again.returncode == 0
    assert "stays as it is; change it there" in again.stdout
    assert KeyPair.load(files[1]).public in again.stdout
    assert [file.read_bytes() for file in files] == before


def test_init_tells_of_directories_that_are_not_there(tmp_path: Path) -> None:
    told = _init(tmp_path, "--repository", str(tmp_path / "unmounted")).stdout
    assert f"there is no directory {tmp_path / 'unmounted'} yet" in told
    assert f"{tmp_path / 'disks'} yet" not in told


def test_init_needs_a_role(tmp_path: Path) -> None:
    done = _holdfast_agent("init", "--config", tmp_path / "agent.toml", "--state-dir", tmp_path, "--yes")
    assert done.returncode == 2
    assert "--proxy DIR" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_refuses_a_bad_address(tmp_path: Path) -> None:
    done = _init(tmp_path, "--listen", "here")
    assert done.returncode == 2
    assert "listen must be ADDRESS:PORT" in done.stderr and "'here' is not" in done.stderr


def test_authorize_and_remove(config: Path) -> None:
    added = _holdfast_agent("authorize", KEY.public, "--name", "vault", "--config", config)
    assert (added.returncode, added.stdout) == (0, f"{KEY.public} is admitted as vault\n")
    shown = _holdfast_agent("show", "--config", config)
    assert f"{KEY.public} vault" in shown.stdout
    removed = _holdfast_agent("authorize", KEY.public, "--remove", "--config", config)
    assert removed.returncode == 0
    again = _holdfast_agent("authorize", KEY.public, "--remove", "--config", config)
    assert again.returncode == 10
    assert "holdfast-agent show" in again.stderr


def test_a_key_may_begin_with_a_dash(config: Path) -> None:
    odd = "-h" + KEY.public[2:]
    assert _holdfast_agent("authorize", odd, "--config", config).returncode == 0
    assert odd in _holdfast_agent("show", "--config", config).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("authorize", "short"), 2, "is not a public key"),
        (("authorize",), 2, "Missing argument"),
        (("nonsense",), 2, "No such command"),
        (("show", "--output", "xml"), 2, "xml"),
        (("run", "--config", "/nowhere/agent.toml"), 2, "holdfast-agent init"),
        ((), 2, "Usage"),
    ],
)
def test_wrong_usage(config: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = _holdfast_agent(*arguments, HOLDFAST_AGENT_CONFIG=str(config))
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_key_in_the_configuration_names_file_key_and_nearest(config: Path) -> None:
    config.write_text(config.read_text().replace("[proxy]\n", "[proxy]\nworker = 2\n"))
    done = _holdfast_agent("run", "--config", config)
    assert done.returncode == 2
    assert f"{config}: unknown key 'proxy.worker'; did you mean 'workers'?" in done.stderr


@pytest.mark.parametrize("command", [(), ("init",), ("authorize",), ("run",), ("show",), ("take-over",)])
def test_help_has_examples(command: tuple[str, ...]) -> None:
    done = _holdfast_agent(*command, "--help")
    assert done.returncode == 0
    assert "Examples:\n    holdfast-agent " in done.stdout.replace("      ", "    ")


def test_version() -> None:
    done = _holdfast_agent("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "holdfast-agent,")


def test_without_keys_run_says_what_makes_them(tmp_path: Path, config: Path) -> None:
    (tmp_path / "state" / "agent.key").unlink()
    done = _holdfast_agent("run", "--config", config)
    assert done.returncode == 2
    assert "Run init first" in done.stderr


def test_a_second_agent_on_the_same_state_directory(tmp_path: Path) -> None:
    with start_agent(tmp_path) as agent:
        second = _holdfast_agent("run", "--config", agent.config)
        assert second.returncode == 11
        assert f"pid {agent.process.pid}" in second.stderr
        shown = json.loads(_holdfast_agent("show", "--output", "json", "--config", agent.config).stdout)
        assert shown["endpoint"] == agent.endpoint


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with start_agent(tmp_path / "one") as agent:
        done = _init(tmp_path, "--listen", agent.endpoint)
        assert done.returncode == 0
        second = _holdfast_agent("run", "--config", tmp_path / "agent.toml")
    assert second.returncode == 2
    assert "cannot listen: Address already in use" in second.stderr


def test_authorize_takes_effect_without_a_restart(tmp_path: Path) -> None:
    with start_agent(tmp_path) as agent:
        with pytest.raises(Unreachable):
            agent.client(KEY, timeout_s=0.4).connect()
        assert _holdfast_agent("authorize", KEY.public, "--config", agent.config).returncode == 0
        with agent.client(KEY) as client:
            assert isinstance(client.call(Heartbeat()), Done)


def test_an_agent_that_was_killed_starts_again_and_show_knows_it_is_down(tmp_path: Path) -> None:
    with start_agent(tmp_path, authorised=[KEY.public]) as agent:
        agent.kill()
        shown = json.loads(_holdfast_agent("show", "--output", "json", "--config", agent.config).stdout)
        assert shown["endpoint"] is None
    with start_agent(tmp_path) as again, again.client(KEY) as client:
        assert isinstance(client.call(Heartbeat()), Done)


def test_an_idle_agent_is_small(tmp_path: Path) -> None:
    with start_agent(tmp_path, authorised=[KEY.public]) as agent, agent.client(KEY) as client:
        client.call(Heartbeat())
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert resident_kib <= IDLE_LIMIT_KIB
