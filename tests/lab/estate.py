"""A whole Holdfast over a network: a manager and several agents, each on a host of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab.agents import launch_agent
from lab.commands import CommandServer
from lab.installation import BIN, STOP_TIMEOUT_S, Installation
from lab.network import Host, network

_PORT = 8430
_AGENT = """\
name = "{name}"
state_dir = "{home}/state"
[control]
listen = "tcp://0.0.0.0:{port}"
[data]
listen_address = "0.0.0.0"
advertised_address = {advertised}
silence_s = 2
resume_s = 5
"""
_ROLE = """\
[{role}]
paths = ["{root}"]
slots = {slots}
"""


class AgentAt:
    """The agent of one host. ``roles``: proxy, repository or both; what it may use lies below ``root``."""

    def __init__(self, home: Path, root: Path, host: Host, roles: str, slots: int) -> None:
        self.host = host
        self.process: subprocess.Popen[bytes] | None = None
        self.log = home / "agent.log"
        self._config = home / "agent.toml"
        home.mkdir(parents=True)
        advertised = json.dumps(list(host.addresses) if len(host.addresses) > 1 else host.address)
        text = _AGENT.format(name=host.name, home=home, port=_PORT, advertised=advertised)
        text += "".join(_ROLE.format(role=role, root=root, slots=slots) for role in roles.split())
        self._config.write_text(text)

    def start(self) -> None:
        """Start it, again after a stop or a kill; ready when this returns."""
        self.process = launch_agent(self._config, self.log, prefix=self.host.command())

    def stop(self) -> None:
        """SIGTERM; it must end by itself."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL: nothing gets a chance to clean up."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)

    def command(self, *arguments: str) -> str:
        """Run ``holdfast-agent`` with its configuration on its host, and return what it printed."""
        return self.host.run(BIN / "holdfast-agent", *arguments, "--config", self._config)


class Estate(Installation):
    """As :class:`Installation`, but the manager runs on a host and so does each of ``agents``, by their names.

    All see the same directories, as if these were on shared storage: which host reads and writes what is the
    configuration's business.
    """

    def __init__(self, home: Path, hosts: tuple[Host, ...], roles: Mapping[str, str], slots: int = 4) -> None:
        super().__init__(home, slots)
        self.hosts = {host.name: host for host in hosts}
        self.agents = {name: AgentAt(home / name, home, self.hosts[name], roles[name], slots) for name in roles}
        self._commands = CommandServer(self.manager.command())

    @property
    def manager(self) -> Host:
        return self.hosts["manager"]

    @property
    def commands(self) -> CommandServer:
        return self._commands

    def command(self, *arguments: str | Path) -> list[str]:
        return self.manager.command(*super().command(*arguments))

    def enrol(self, snapshot: str = "auto") -> None:
        """Make keys, admit each other, start the agents; add them by their names, and the images as ``lab``."""
        public_key = self.holdfast("init")["public_key"]
        for name, agent in self.agents.items():
            agent.command("init")
            key = json.loads(agent.command("show", "--output", "json"))["public_key"]
            agent.command("authorize", public_key, "--name", "test")
            agent.start()
            self.holdfast("agent", "add", name, f"{agent.host.address}:{_PORT}", key)
        options = ("--option", f"path={self.vms}", "--option", f"snapshot={snapshot}")
        self.holdfast("server", "add", "lab", "--plugin", "images", *options)

    def add_plain_repository(self, name: str, agent: str) -> None:
        """A new repository at ``store/NAME``, kept by ``agent``, without encryption."""
        place = ("--agent", agent, "--path", self.store / name, "--create", "--no-encryption")
        self.holdfast("repository", "add", name, *place)

    def stop(self) -> None:
        """End all agents."""
        with contextlib.ExitStack() as all_of_them:
            all_of_them.callback(self._commands.close)
            for agent in self.agents.values():
                all_of_them.callback(agent.stop)


@contextlib.contextmanager
def estate(home: Path, roles: Mapping[str, str], networks: int = 1, slots: int = 4) -> Iterator[Estate]:
    """An estate that is enrolled: the host ``manager``, and one with an agent for each of ``roles``.

    ``roles``: by the agent's name "proxy", "repository" or both. Everything ends with it, whatever happens.
    """
    with network(["manager", *roles], networks) as hosts:
        made = Estate(home, hosts, roles, slots)
        try:
            made.enrol()
            yield made
        finally:
            made.stop()
