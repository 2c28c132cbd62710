"""Real agents for tests: the daemon as its own process on loopback, with a free port and its own directories."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_agent.channel.authentication import AuthorisedKeys, KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.config.settings import (
    AgentSettings,
    ControlSettings,
    DataSettings,
    ProxySettings,
    RepositorySettings,
)
from holdfast_agent.config.template import render
from holdfast_agent.wire.messages import Push

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
_ON_LOOPBACK = DataSettings(listen_address="127.0.0.1", port_range=(0, 0))

_LAUNCHER = """
import json, sys
from holdfast_agent.service import agent, daemon
command = json.loads(sys.argv.pop())
if command:
    from holdfast_agent.cli import run
    original = daemon.run_agent
    daemon.run_agent = lambda settings: original(settings, command)
from holdfast_agent.cli.main import main
main(sys.argv[1:])
"""


@dataclass
class RunningAgent:
    """An agent that answers. ``roots`` are the directories opened for its roles."""

    name: str
    endpoint: str
    public_key: str
    config: Path
    settings: AgentSettings
    process: subprocess.Popen[bytes]
    log: Path
    roots: dict[str, Path] = field(default_factory=dict)

    def authorize(self, key: str, name: str = "test") -> None:
        """Admit a manager, as ``holdfast-agent authorize`` does."""
        AuthorisedKeys(self.settings.authorised_keys_file).add(key, name)

    def revoke(self, key: str) -> None:
        """Shut a manager out."""
        AuthorisedKeys(self.settings.authorised_keys_file).remove(key)

    def client(
        self, keys: KeyPair, on_push: Callable[[Push | AgentLost], None] = lambda push: None, timeout_s: float = 30.0
    ) -> ControlClient:
        """A client that is not connected yet; use it as a context manager."""
        return ControlClient(self.endpoint, self.public_key, keys, on_push, timeout_s)

    def stop(self) -> int:
        """SIGTERM, and the exit code; does nothing to an agent that has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL: nothing gets a chance to clean up."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def start_agent(
    directory: Path,
    roles: Sequence[str] = ("proxy", "repository"),
    *,
    name: str = "agent",
    authorised: Sequence[str] = (),
    mover_command: Sequence[str] = (),
    proxy_paths: Sequence[Path] = (),
    repository_paths: Sequence[Path] = (),
    slots: int = 2,
    immutable_helper: str = "",
    data: DataSettings = _ON_LOOPBACK,
) -> Iterator[RunningAgent]:
    """Run an agent below ``directory`` and stop it at the end; may be called again there after a stop or a kill.

    Without paths given, the roles get ``directory/disks`` and ``directory/store``. ``mover_command`` runs another
    program as the mover. It listens on a free port of 127.0.0.1 and is ready when this returns.
    """
    directory.mkdir(parents=True, exist_ok=True)
    roots = {"proxy": directory / "disks", "repository": directory / "store"}
    settings = AgentSettings(
        name=name,
        state_dir=str(directory / "state"),
        log_level="debug",
        control=ControlSettings(listen="tcp://127.0.0.1:0"),
        data=data,
        proxy=_proxy(proxy_paths or [roots["proxy"]], slots) if "proxy" in roles else None,
        repository=_repository(repository_paths or [roots["repository"]], slots, immutable_helper)
        if "repository" in roles
        else None,
    )
    config, log = directory / "agent.toml", directory / "agent.log"
    config.write_text(render(settings), encoding="utf-8")
    for path in (*roots.values(), Path(settings.state_dir)):
        path.mkdir(exist_ok=True, mode=0o700)
    if not settings.secret_key_file.exists():
        KeyPair.generate().save(settings.secret_key_file)
    for key in authorised:
        AuthorisedKeys(settings.authorised_keys_file).add(key, "test")
    process = launch_agent(config, log, mover_command)
    try:
        endpoint = settings.endpoint_file.read_text(encoding="ascii").strip()
        public = KeyPair.load(settings.secret_key_file).public
        agent = RunningAgent(name, endpoint, public, config, settings, process, log, roots)
        yield agent
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def _proxy(paths: Sequence[Path], slots: int) -> ProxySettings:
    return ProxySettings(paths=tuple(map(str, paths)), slots=slots)


def _repository(paths: Sequence[Path], slots: int, immutable_helper: str) -> RepositorySettings:
    return RepositorySettings(paths=tuple(map(str, paths)), slots=slots, immutable_helper=immutable_helper)


def launch_agent(
    config: Path, log: Path, mover_command: Sequence[str] = (), prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start the daemon and wait until it says READY=1 by the protocol of systemd, or ends.

    ``prefix`` is put before the command, such as what runs it in another network namespace.
    """
    arguments = ["run", "--config", str(config)]
    command = [sys.executable, "-P", "-c", _LAUNCHER, *arguments, json.dumps(list(mover_command))]
    if not mover_command:
        command = [sys.executable, "-P", "-c", "from holdfast_agent.cli.main import main; main()", *arguments]
    with tempfile.TemporaryDirectory(prefix="hf") as place, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        notify = f"{place}/ready"  # a short path; the abstract name space is another one in each network namespace
        ready.bind(notify)
        with log.open("ab") as output:
            environment = {**os.environ, "NOTIFY_SOCKET": notify}
            process = subprocess.Popen([*prefix, *command], stdin=subprocess.DEVNULL, stderr=output, env=environment)
        ended = os.pidfd_open(process.pid)
        try:
            woken, _, _ = select.select([ready.fileno(), ended], [], [], START_TIMEOUT_S)
        finally:
            os.close(ended)
    if ended in woken or not woken:
        process.kill()
        process.wait()
        raise AssertionError(f"the agent did not start:\n{log.read_text(encoding='utf-8')[-4000:]}")
    return process
