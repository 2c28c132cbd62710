"""A whole Holdfast for tests and benchmarks: a manager's home and one agent with both roles, run as users run them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.agents import RunningAgent, launch_agent, start_agent
from lab.commands import PROGRAMS, Commands, shared_server
from lab.ports import free_port

BIN = Path(sys.executable).parent
COMMAND_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0

_AGENT = """\
name = "local"
state_dir = "{home}/agent"
log_level = "info"
[control]
listen = "tcp://127.0.0.1:{port}"
[data]
listen_address = "127.0.0.1"
port_range = [0, 0]
[proxy]
paths = ["{home}"]
slots = {slots}
[repository]
paths = ["{home}"]
slots = {slots}
"""
# The shortest times that the configuration admits, so that what a killed process held is free again soon.
_MANAGER = """\
[timing]
lease_ttl = 5
heartbeat = 0.5
poll = 0.1
[plugins]
load = {plugins}
[database]
url = {database}
"""
_TESTS = Path(__file__).parents[1]


class CommandFailed(AssertionError):
    """A command ended with another exit code than expected; the text holds what it printed."""


class Installation:
    """Directories: ``vms`` for the server ``lab`` of kind `images`, ``store`` for repositories, ``out`` for restores.

    The agent keeps its port through restarts. Not thread-safe, except :meth:`holdfast`.
    """

    def __init__(self, home: Path, slots: int = 2, plugins: Sequence[str] = (), database: str = "") -> None:
        """``plugins``: modules below ``tests`` that the manager loads as plugins. ``database``: its URL, if not the
        embedded one."""
        self.home = home
        self.vms, self.store, self.out = home / "vms", home / "store", home / "out"
        for directory in (self.vms, self.store, self.out):
            directory.mkdir(parents=True, exist_ok=True)
        self.agent_config = home / "agent.toml"
        self.port = free_port()
        self.agent_config.write_text(_AGENT.format(home=home, port=self.port, slots=slots))
        self.manager_config = home / "manager.toml"
        self.manager_config.write_text(_MANAGER.format(plugins=json.dumps(plugins), database=json.dumps(database)))
        self.environment = {
            **os.environ,
            "HOLDFAST_HOME": str(home / "manager"),
            "HOLDFAST_CONFIG": str(self.manager_config),
            "PYTHONPATH": str(_TESTS),
        }
        self.agent: subprocess.Popen[bytes] | None = None
        self.key = ""
        """The manager's public key, once it has one."""

    @property
    def commands(self) -> Commands:
        """Runs the commands: quickly in tests, as users do elsewhere, for benchmarks time the whole program."""
        return shared_server() if "PYTEST_CURRENT_TEST" in os.environ else PROGRAMS

    def start_agent(self) -> None:
        """Start the agent, again after a stop or a kill; ready when this returns."""
        self.agent = launch_agent(self.agent_config, self.home / "agent.log")

    def stop_agent(self) -> None:
        """SIGTERM; the agent must end by itself."""
        if self.agent is not None and self.agent.poll() is None:
            self.agent.terminate()
            try:
                self.agent.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
                raise

    def kill_agent(self) -> None:
        """SIGKILL: nothing gets a chance to clean up."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(STOP_TIMEOUT_S)

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line of ``holdfast``; to be run with :attr:`environment`."""
        return [str(BIN / "holdfast"), *map(str, arguments), "--output", "json"]

    def holdfast(self, *arguments: str | Path, expect: int = 0) -> Any:
        """Run ``holdfast`` with ``--output json`` and return its document (None if it printed none)."""
        command = Installation.command(self, *arguments)  # what runs it elsewhere is the server's business
        done = self.commands.run(command, self.environment, COMMAND_TIMEOUT_S)
        if done.returncode != expect:
            told = f"{shlex.join(command)}\nexit code {done.returncode}, expected {expect}\n"
            raise CommandFailed(told + done.stdout + done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def agent_command(self, *arguments: str) -> str:
        """Run ``holdfast-agent`` with the agent's configuration and return what it printed."""
        command = [str(BIN / "holdfast-agent"), *arguments, "--config", str(self.agent_config)]
        done = self.commands.run(command, self.environment, COMMAND_TIMEOUT_S)
        done.check_returncode()
        return done.stdout

    # --- shorthand for what most tests do; each is one command -----------------------------------------------------

    def enrol(self, snapshot: str = "auto") -> None:
        """Make keys, admit each other, start the agent; add it as ``local`` and the images as ``lab``."""
        self.agent_command("init")
        agent_key = json.loads(self.agent_command("show", "--output", "json"))["public_key"]
        self.key = self.holdfast("init")["public_key"]
        self.agent_command("authorize", self.key, "--name", "test")
        self.start_agent()
        self.holdfast("agent", "add", "local", f"127.0.0.1:{self.port}", agent_key)
        options = ("--option", f"path={self.vms}", "--option", f"snapshot={snapshot}")
        self.holdfast("server", "add", "lab", "--plugin", "images", *options)

    def add_server(self, name: str, plugin: str, **options: object) -> None:
        """A server without a secret."""
        words = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
        self.holdfast("server", "add", name, "--plugin", plugin, *words)

    def add_repository(self, name: str, *, encrypted: bool) -> None:
        """A new repository at ``store/NAME``; its passphrase lies in the file ``NAME.pass``."""
        place = ("--agent", "local", "--path", self.store / name, "--create")
        if encrypted:
            file = self.home / f"{name}.pass"
            file.touch(0o600)
            file.write_text(f"{secrets.token_hex(16)}\n")
            self.holdfast("repository", "add", name, *place, "--passphrase-file", file)
        else:
            self.holdfast("repository", "add", name, *place, "--no-encryption")

    def add_job(self, name: str, *options: str, repository: str, include: str) -> None:
        """A job on the server ``lab``."""
        self.holdfast(
            "job", "create", name, "--server", "lab", "--include", include, "--repository", repository, *options
        )

    def run_job(self, name: str, expect: int = 0) -> dict[str, Any]:
        """Run a job to its end; returns the session's report."""
        report: dict[str, Any] = self.holdfast("job", "run", name, expect=expect)
        return report

    def kill_session(self, session: int) -> None:
        """kill -9 of the process of a session that runs."""
        with contextlib.closing(sqlite3.connect(self.home / "manager" / "catalog.db")) as catalog:
            (process,) = catalog.execute("SELECT process FROM sessions WHERE id = ?", (session,)).fetchone()
        os.kill(int(json.loads(process)["pid"]), signal.SIGKILL)

    def points(self, vm: str) -> list[dict[str, Any]]:
        """The restore points of a VM, the newest first."""
        listed: list[dict[str, Any]] = self.holdfast("point", "list", "--vm", vm)["points"]
        return listed

    def restore_disk(self, vm: str, point: str, to: Path, *options: str) -> None:
        """Restore the only disk of a VM to a file."""
        self.holdfast("restore", "disk", "--vm", vm, "--point", point, "--to", to, *options)


@contextlib.contextmanager
def installed(
    home: Path, slots: int = 2, snapshot: str = "auto", plugins: Sequence[str] = (), database: str = ""
) -> Iterator[Installation]:
    """An installation that is enrolled and whose agent runs; stopped at the end, its files left."""
    house = Installation(home, slots, plugins, database)
    try:
        house.enrol(snapshot)
        yield house
    finally:
        house.stop_agent()


@contextlib.contextmanager
def another_proxy(house: Installation, name: str = "other", **settings: Any) -> Iterator[RunningAgent]:
    """One more agent, a proxy only: the movers of its tasks are two processes with a network between them.

    ``settings``: further ones of :func:`~lab.agents.start_agent`.
    """
    where = house.home / name
    with start_agent(
        where, ("proxy",), name=name, authorised=(house.key,), proxy_paths=(house.home,), **settings
    ) as agent:
        house.holdfast("agent", "add", name, agent.endpoint.removeprefix("tcp://"), agent.public_key)
        yield agent
