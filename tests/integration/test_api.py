"""The manager's API with real connections and real commands: who gets in, what travels, and what cuts it off."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.request_client import PeerLost
from holdfast_agent.errors import HoldfastError, Unreachable
from holdfast_agent.wire import codec
from holdfast_agent.wire.messages import Enrol, Failure, Push
from holdfast_manager.api import contexts
from holdfast_manager.api.client import ApiClient
from holdfast_manager.api.contexts import Context
from holdfast_manager.api.dispatch import ROUTES
from holdfast_manager.api.messages import (
    REQUESTS,
    CommandEnded,
    CommandStarted,
    GiveInput,
    Greet,
    Greeted,
    InterruptCommand,
    Output,
    StartCommand,
    Terminal,
    TookOutput,
    decode_answer,
)
from holdfast_manager.api.server import ApiServer
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import EventEntry, SessionKind
from holdfast_manager.rights.roles import Role
from holdfast_manager.rights.values import UserEntry
from holdfast_manager.settings import ApiSettings, ManagerSettings
from lab.control_peer import RawPeer
from lab.ports import free_port

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
WAIT_S = 60.0
PIPES = Terminal()


class Office:
    """A manager that serves its API from the test's process, and users of it on "other hosts"."""

    def __init__(self, place: Path, settings: ManagerSettings, catalog: Catalog) -> None:
        self.catalog = catalog
        self.settings = msgspec.structs.replace(settings, api=ApiSettings(listen=f"127.0.0.1:{free_port()}"))
        self.keys = KeyPair.generate()
        self.keys.save(settings.identity_file)
        self.config = place / "manager.toml"
        self.config.touch()
        self.server = ApiServer(self.settings, catalog, self.config)
        self.managers = place / "managers"

    @property
    def environment(self) -> dict[str, str]:
        """Of a user: nothing of the manager's is there."""
        left = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST")}
        return {**left, "HOLDFAST_HOME": "/nonexistent", "HOLDFAST_MANAGERS": str(self.managers), "TERM": "xterm"}

    def user(self, name: str, *roles: Role) -> Context:
        """Somebody new, known to the manager."""
        os.environ["HOLDFAST_MANAGERS"] = str(self.managers)
        context = contexts.add(name, self.server.endpoint, self.keys.public)
        self.catalog.users.add(UserEntry(name=name, roles=roles, public_key=context.keys.public))
        return context

    def run(
        self, user: str, *arguments: str | Path, stdin: str = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`holdfast --manager` as that user."""
        command = [HOLDFAST, "--manager", user, *map(str, arguments)]
        return subprocess.run(
            command,
            env=self.environment,
            input=stdin,
            text=True,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
            cwd=cwd,
        )

    def local(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The same on the manager's host."""
        environment = {**os.environ, "HOLDFAST_HOME": str(self.settings.home), "HOLDFAST_CONFIG": str(self.config)}
        command = [HOLDFAST, *map(str, arguments)]
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )


@pytest.fixture
def office(
    tmp_path: Path, manager_settings: ManagerSettings, stocked: Catalog, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    monkeypatch.setenv("HOLDFAST_MANAGERS", str(tmp_path / "managers"))
    made = Office(tmp_path, manager_settings, stocked)
    yield made
    made.server.close()


class Line:
    """A connection that speaks the protocol by hand."""

    def __init__(self, context: Context) -> None:
        self.inbox: queue.SimpleQueue[Push | PeerLost] = queue.SimpleQueue()
        self.client = ApiClient(context, self.inbox.put)

    def __enter__(self) -> Line:
        if not self.client.live:
            self.client.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def start(self, *arguments: str, terminal: Terminal = PIPES, files: dict[str, bytes] | None = None) -> int:
        reply = self.client.call(StartCommand(arguments=arguments, files=files or {}, terminal=terminal))
        assert isinstance(reply, CommandStarted)
        return reply.command

    def end(self, number: int) -> tuple[int, str, str]:
        """Exit code and what was written to both streams."""
        said = {1: b"", 2: b""}
        while True:
            push = self.inbox.get(timeout=WAIT_S)
            if isinstance(push, CommandEnded):
                return push.code, said[1].decode(), said[2].decode()
            assert isinstance(push, Output), push
            said[push.stream] += push.data
            self.client.call(TookOutput(command=number, length_bytes=len(push.data)))

    def run(self, *arguments: str, files: dict[str, bytes] | None = None) -> tuple[int, str, str]:
        return self.end(self.start(*arguments, files=files))


def test_the_dispatch_table_knows_every_request() -> None:
    assert set(ROUTES) == set(REQUESTS)


def test_what_is_printed_is_what_is_printed_there(office: Office) -> None:
    office.user("vera", Role.VIEWER)
    for arguments in (("job", "list"), ("job", "show", "wbe"), ("server", "list", "--output", "json"), ("bogus",)):
        there, here = office.local(*arguments), office.run("vera", *arguments)
        assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr), arguments


def test_every_role_is_held_to_the_table_and_what_is_tried_is_written_down(office: Office) -> None:
    with Line(office.user("vera", Role.VIEWER)) as vera, Line(office.user("otto", Role.OPERATOR)) as otto:
        assert vera.run("job", "list")[0] == 0
        code, _, told = vera.run("job", "disable", "web")
        assert (code, "takes the right to operate" in told) == (13, True)
        assert not [entry for entry in office.catalog.jobs.list() if not entry.enabled]
        assert otto.run("job", "disable", "web")[0] == 0
        assert otto.run("user", "list")[0] == otto.run("brand-new", "x")[0] + 11 == 13
        assert otto.run("service", "run")[0] == 13
        assert otto.run("remote", "list")[0] == 13
    told = [(each.actor, each.place, each.action, each.outcome) for each in reversed(office.catalog.audit.list())]
    assert told == [
        ("vera", "api 127.0.0.1", "job disable", "denied"),
        ("otto", "api 127.0.0.1", "job disable", "began"),
        ("otto", "api 127.0.0.1", "job disable", "done"),
        ("otto", "api 127.0.0.1", "user list", "denied"),
        ("otto", "api 127.0.0.1", "service run", "denied"),
        ("otto", "api 127.0.0.1", "remote list", "denied"),
    ]


def test_files_come_and_go_and_none_of_the_managers_is_read(office: Office, tmp_path: Path) -> None:
    office.user("ada", Role.ADMINISTRATOR)
    secret = tmp_path / "secret"
    secret.write_text("a long password\n")
    secret.chmod(0o600)
    done = office.run("ada", "user", "add", "bob", "--role", "viewer", "--password-file", secret)
    assert done.returncode == 0, done.stderr
    assert office.catalog.users.login("bob", "a long password")
    assert office.run("ada", "user", "edit", "bob", "--password", stdin="another password\n").returncode == 0
    assert office.catalog.users.login("bob", "another password")
    page = tmp_path / "page.html"
    done = office.run("ada", "report", "page.html", "--no-inventory", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert page.read_text().rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.glob(".page*")] == []
    kept = office.run("ada", "config", "backup", "page.html", cwd=tmp_path)
    assert (kept.returncode, "exists already" in kept.stderr) == (2, True)
    assert office.run("ada", "user", "add", "eve", "--role", "viewer", "--password-file", "none").returncode == 2
    assert "cannot be sent" in office.run("ada", "init").stderr
    with Line(contexts.load("ada")) as line:
        for arguments in (
            ("user", "add", "eve", "--role", "viewer", "--password-file", str(secret)),
            ("--config", str(office.config), "job", "list"),
            ("job", "list", "--config", str(office.config)),
            ("apply", str(office.config)),
        ):
            assert line.run(*arguments)[0] == 2, arguments
        assert line.run("apply", "../../x/a.toml", files={"../../x/a.toml": b""})[0] == 0
        assert line.run("apply", "toml.py", files={"toml.py": b"", "msgspec.py": b"raise SystemExit(77)"})[0] == 0
    assert list((office.settings.home / "commands").iterdir()) == []


def test_only_keys_of_enabled_users_get_in(office: Office) -> None:
    known = office.user("vera", Role.VIEWER)
    office.catalog.users.update(msgspec.structs.replace(office.catalog.users.get("vera"), enabled=False))
    stranger = contexts.add("stranger", office.server.endpoint, office.keys.public)
    false_server = contexts.add("false", office.server.endpoint, KeyPair.generate().public)
    for context in (known, stranger, false_server):
        client = ApiClient(context, lambda push: None)
        client._timeout_s = 1.0
        with pytest.raises(Unreachable):
            client.connect()


def follow(office: Office, line: Line) -> int:
    """A command that does not end by itself: it follows a session that lives."""
    session = office.catalog.sessions.begin(SessionKind.VERIFY, {}).id
    office.catalog.sessions.adopt(session)
    office.catalog.events.append([EventEntry(session=session, time=1.0, kind="session_started")])
    return line.start("session", "follow", str(session), "--output", "json")


def ended(line: Line, number: int) -> int:
    """The exit code of one command among several."""
    while True:
        push = line.inbox.get(timeout=WAIT_S)
        if isinstance(push, CommandEnded):
            assert push.command == number
            return push.code


def commands(office: Office) -> set[int]:
    """Processes that run a command of somebody on another host."""
    mark = f"HOLDFAST_HOME={office.settings.home}\0".encode()
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"holdfast_manager.api.command" in (each / "cmdline").read_bytes():
                found |= {int(each.name)} if mark in (each / "environ").read_bytes() else set()
    return found


def wait_gone(office: Office) -> None:
    give_up = time.monotonic() + WAIT_S
    while commands(office):
        assert time.monotonic() < give_up
        select.select([], [], [], 0.05)


def test_whoever_is_disabled_is_cut_off_in_the_middle(office: Office) -> None:
    with Line(office.user("vera", Role.VIEWER)) as line:
        follow(office, line)
        assert isinstance(line.inbox.get(timeout=WAIT_S), Output)
        assert commands(office)
        office.catalog.users.update(msgspec.structs.replace(office.catalog.users.get("vera"), enabled=False))
        wait_gone(office)
        with pytest.raises(HoldfastError) as refused:
            line.start("job", "list")
        assert refused.value.code in ("not_authorised", "connection_lost")


def test_ctrl_c_reaches_the_command_and_a_lost_line_ends_it(office: Office) -> None:
    with Line(office.user("vera", Role.VIEWER)) as line:
        number = follow(office, line)
        assert isinstance(line.inbox.get(timeout=WAIT_S), Output)
        line.client.call(InterruptCommand(command=number))
        assert line.end(number)[0] == 130
        follow(office, line)
        assert isinstance(line.inbox.get(timeout=WAIT_S), Output)
        assert commands(office)
    office.server._dispatcher._clock = lambda: time.monotonic() + 3600  # nothing was heard of it for long
    wait_gone(office)


def test_nobody_reaches_the_commands_of_others_and_bounds_hold(office: Office) -> None:
    with Line(office.user("vera", Role.VIEWER)) as vera, Line(office.user("eve", Role.ADMINISTRATOR)) as eve:
        number = follow(office, vera)
        for request in (
            InterruptCommand(command=number),
            GiveInput(command=number, data=b"x"),
            TookOutput(command=number, length_bytes=1),
        ):
            eve.client.call(request)
        with pytest.raises(HoldfastError) as refused:
            vera.start("job", "show", "\0")
        assert refused.value.code == "usage"
        with pytest.raises(HoldfastError) as refused:
            vera.start("apply", "x", files={"x": bytes((4 << 20) + 1)})
        assert refused.value.code == "usage"
        for _ in range(7):
            follow(office, vera)
        with pytest.raises(HoldfastError) as refused:
            vera.start("job", "list")
        assert refused.value.code == "locked"
        assert eve.run("job", "list")[0] == 0
        vera.client.call(InterruptCommand(command=number))
        assert ended(vera, number) == 130


def test_hostile_bytes_get_an_error_or_nothing_and_harm_nobody(office: Office) -> None:
    vera = office.user("vera", Role.VIEWER)
    with RawPeer(vera.place.endpoint, office.keys.public, vera.keys, decode_answer) as peer, Line(vera) as line:
        list_jobs = codec.encode(StartCommand(arguments=("job", "list"), files={}, terminal=PIPES))
        assert refusal(peer.ask(list_jobs)) == "not_authorised"  # it has not greeted
        assert refusal(peer.ask(codec.encode(Greet(major=9, minor=0, software="x")))) == "version_mismatch"
        assert isinstance(peer.ask(codec.encode(Greet(major=1, minor=0, software="x"))), Greeted)
        peer.send(b"", b"")
        peer.send(b"one frame")
        peer.send(codec.pack_correlation(1), list_jobs, b"a third")
        resize = {"type": "ResizeTerminal", "command": 1, "columns": -1, "lines": 1}
        for body, code in (
            (b"", "malformed_message"),
            (b"\xc1" * 1000, "malformed_message"),
            (b"\x91" * 100_000, "malformed_message"),
            (codec.encode(Output(command=1, stream=1, data=b"")), "unknown_message"),
            (msgspec.msgpack.encode({"type": "StartCommand", "arguments": ["a"] * 2000}), "malformed_message"),
            (msgspec.msgpack.encode({"type": "StartCommand", "arguments": "job list"}), "malformed_message"),
            (msgspec.msgpack.encode(resize), "malformed_message"),
            (codec.encode(Enrol(key="k", name="n")), "unknown_message"),
        ):
            assert refusal(peer.ask(body)) == code, body[:50]
        assert line.run("job", "list")[0] == 0


def refusal(reply: object) -> str:
    assert isinstance(reply, Failure), reply
    return reply.error.code


def test_the_service_is_killed_under_a_command(office: Office) -> None:
    """The client is told; the command ends, though nohup ignores SIGHUP; a new service serves again, and clears up."""
    context = office.user("vera", Role.VIEWER)
    office.server.close()
    port = context.place.endpoint.rpartition(":")[2]
    office.config.write_text(f'[api]\nlisten = "127.0.0.1:{port}"\n')
    left = office.settings.home / "commands"
    with running_service(office) as service, reached(context) as line:
        follow(office, line)
        assert isinstance(line.inbox.get(timeout=WAIT_S), Output)
        service.kill()
        assert isinstance(line.inbox.get(timeout=WAIT_S), PeerLost)
        assert list(left.iterdir())
        wait_gone(office)
    with running_service(office), reached(context) as line:
        assert line.run("job", "list")[0] == 0
        assert list(left.iterdir()) == []
    office.server = ApiServer(office.settings, office.catalog, office.config)


@contextlib.contextmanager
def running_service(office: Office) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "HOLDFAST_HOME": str(office.settings.home), "HOLDFAST_CONFIG": str(office.config)}
    process = subprocess.Popen(["nohup", HOLDFAST, "service", "run", "-q"], stdin=subprocess.DEVNULL, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(WAIT_S) in (0, -signal.SIGKILL)


def reached(context: Context) -> Line:
    """A connection to a service that is about to listen."""
    give_up = time.monotonic() + WAIT_S
    while True:
        line = Line(context)
        try:
            line.client.connect()
        except Unreachable:
            assert time.monotonic() < give_up
        else:
            return line


def test_at_a_terminal_all_looks_as_it_would_there(office: Office) -> None:
    """Colours and widths by a terminal of the same kind; a question is asked without showing what is typed."""
    office.user("ada", Role.ADMINISTRATOR)
    shown = at_terminal([HOLDFAST, "--manager", "ada", "job", "show", "wbe"], office.environment)
    there = {**office.environment, "HOLDFAST_HOME": str(office.settings.home), "HOLDFAST_CONFIG": str(office.config)}
    assert shown == at_terminal([HOLDFAST, "job", "show", "wbe"], there)
    assert b"\x1b[" in shown[1]
    command = [HOLDFAST, "--manager", "ada", "user", "add", "bob", "--role", "viewer", "--password"]
    code, told = at_terminal(command, office.environment, [b"New password: ", b"Repeat for confirmation: "])
    assert code == 0, told
    assert b"a long password" not in told
    assert office.catalog.users.login("bob", "a long password")


def at_terminal(
    command: list[str], environment: dict[str, str], prompts: list[bytes] | None = None
) -> tuple[int, bytes]:
    """Run it at a terminal, typing a password at each prompt. Exit code, and all that was shown."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    shown, awaited = b"", list(prompts or ())
    try:
        while True:
            readable, _, _ = select.select([master], [], [], WAIT_S)
            assert readable, shown
            try:
                shown += os.read(master, 4096)
            except OSError:
                break
            if awaited and shown.endswith(awaited[0]):
                awaited.pop(0)
                os.write(master, b"a long password\r")
    finally:
        os.close(master)
        if process.poll() is None and awaited:
            process.kill()
        code = process.wait(WAIT_S)
    return code, shown.replace(b"\r\r\n", b"\r\n")
