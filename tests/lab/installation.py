"""A whole Holdfast for tests and benchmarks: a manager's home and one agent with both roles, run as users run them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.agents import launch_agent

BIN = Path(sys.executable).parent
COMMAND_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 40.0

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
"""


class CommandFailed(AssertionError):
    """A command ended with another exit code than expected; the text holds what it printed."""


class Installation:
    """Directories: ``vms`` for the server ``lab`` of kind `images`, ``store`` for repositories, ``out`` for restores.

    The agent keeps its port through restarts. Not thread-safe, except :meth:`holdfast`.
    """

    def __init__(self, home: Path, slots: int = 2) -> None:
        self.home = home
        self.vms, self.store, self.out = home / "vms", home / "store", home / "out"
        for directory in (self.vms, self.store, self.out):
            directory.mkdir(parents=True, exist_ok=True)
        self.agent_config = home / "agent.toml"
        self.port = _free_port()
        self.agent_config.write_text(_AGENT.format(home=home, port=self.port, slots=slots))
        self.manager_config = home / "manager.toml"
        self.manager_config.write_text(_MANAGER)
        self.environment = {
            **os.environ,
            "HOLDFAST_HOME": str(home / "manager"),
            "HOLDFAST_CONFIG": str(self.manager_config),
        }
        self.agent: subprocess.Popen[bytes] | None = None

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

    def holdfast(self, *arguments: str | Path, expect: int = 0) -> Any:
        """Run ``holdfast`` with ``--output json`` and return its document (None if it printed none)."""
        command = [str(BIN / "holdfast"), *map(str, arguments), "--output", "json"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != expect:
            told = f"{shlex.join(command)}\nexit code {done.returncode}, expected {expect}\n"
            raise CommandFailed(told + done.stdout + done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def agent_command(self, *arguments: str) -> str:
        """Run ``holdfast-agent`` with the agent's configuration and return what it printed."""
        command = [BIN / "holdfast-agent", *arguments, "--config", self.agent_config]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def installed(home: Path, slots: int = 2) -> Iterator[Installation]:
    """An installation whose agent runs and which knows it as ``local`` and its images as ``lab``."""
    house = Installation(home, slots)
    house.agent_command("init")
    house.holdfast("init")
    house.start_agent()
    try:
        yield house
    finally:
        house.stop_agent()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
