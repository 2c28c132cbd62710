"""The agent as a process of its own: lock, keys, sockets, signals, and their end in reverse order."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from holdfast_agent.channel.authentication import AuthorisedKeys, KeyPair
from holdfast_agent.channel.control_server import ControlServer
from holdfast_agent.channel.enrolment_tokens import EnrolmentTokens
from holdfast_agent.channel.metrics_endpoint import MetricsEndpoint
from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import ConfigInvalid, Locked
from holdfast_agent.export.folder import remove_forgotten
from holdfast_agent.wire.codec import ORDER_LIMIT_BYTES

from .agent import Agent
from .health import metrics_of
from .mover_birth import MOVER_COMMAND
from .transport import TransportService

_LAST_REPLIES_S = 1.0

_log = logging.getLogger(__name__)


def run_agent(settings: AgentSettings, mover_command: Sequence[str] = MOVER_COMMAND) -> None:
    """Serve until SIGTERM or SIGINT, then clean up and return. To be called in the main thread.

    Raises :class:`Locked` if an agent runs on this state directory, or a :class:`ConfigError`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(settings))
        keys = KeyPair.load(settings.secret_key_file)
        authorised = AuthorisedKeys(settings.authorised_keys_file)
        authorised.current()  # a list that cannot be read is better told now than by refusing everybody
        _fresh_directory(settings.runtime_dir)
        settings.cache_dir.mkdir(mode=0o700, exist_ok=True)
        remove_forgotten(settings.export_dir)
        tokens = EnrolmentTokens(settings.tokens_file)
        server = ControlServer(
            settings.control.listen,
            keys,
            lambda key: key in authorised.current() or tokens.admits(key),
            ORDER_LIMIT_BYTES,
            "control.listen",
        )
        stack.callback(server.close, _LAST_REPLIES_S)
        agent = Agent(settings, server, authorised, mover_command, tokens=tokens)
        stack.callback(agent.close)
        service = TransportService(agent)
        stack.enter_context(_metrics_told(settings, service))
        stack.enter_context(_stopped_by_signals(service))
        stack.enter_context(_endpoint_written(settings.endpoint_file, server.endpoint))
        roles = ", ".join(settings.roles) or "no role"
        _log.info("agent %s (%s) listens on %s, key %s", settings.agent_name, roles, server.endpoint, keys.public)
        notify("READY=1")
        service.run()
        notify("STOPPING=1")
    _log.info("agent %s has stopped", settings.agent_name)


def notify(state: str) -> None:
    """Tell systemd, if it asked by NOTIFY_SOCKET (sd_notify(3)); whatever goes wrong there is not ours to mend."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
        peer.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        peer.sendall(state.encode())


@contextlib.contextmanager
def _metrics_told(settings: AgentSettings, service: TransportService) -> Iterator[None]:
    """At the endpoint, if one is configured. Raises :class:`ConfigInvalid` when the address cannot be had."""
    if not settings.metrics.listen:
        yield
        return
    try:
        endpoint = MetricsEndpoint(settings.metrics.listen, lambda: metrics_of(settings, service.numbers))
    except OSError as error:
        reason = f"{settings.metrics.listen}: {error.strerror or error}"
        raise ConfigInvalid(file="agent configuration", key="metrics.listen", reason=reason) from error
    _log.info("metrics are told at port %d", endpoint.port)
    try:
        yield
    finally:
        endpoint.close()


@contextlib.contextmanager
def _only_one(settings: AgentSettings) -> Iterator[None]:
    """Hold the lock of the state directory. The kernel frees it with the process, so none is ever stale."""
    try:
        descriptor = os.open(settings.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = f"{error.strerror}; holdfast-agent init makes it"
        raise ConfigInvalid(file=settings.state_dir, key="state_dir", reason=reason) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(what=settings.state_dir, holder=f"the agent with pid {file.read(20).strip() or '?'}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def _endpoint_written(path: Path, endpoint: str) -> Iterator[None]:
    """Record where the agent listens; the file appears whole, and goes when the agent stops."""
    temporary = path.with_name(".endpoint")
    temporary.write_text(f"{endpoint}\n", encoding="ascii")
    temporary.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _stopped_by_signals(service: TransportService) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        service.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fresh_directory(path: Path) -> None:
    """Sockets of movers that a killed agent left are of no use to anybody."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
