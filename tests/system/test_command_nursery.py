"""Commands that the service's nursery runs: as if they were typed and loaded, and gone when their typist is."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from holdfast_manager.catalog.values import SessionState
from holdfast_manager.cli.app import App
from holdfast_manager.cli.root import root
from holdfast_manager.nursery import door
from holdfast_manager.nursery.asking import QUICK
from holdfast_manager.rights.commands import rule_of
from lab.installation import Installation, installed
from lab.processes import alive, children
from lab.services import Service, catalogue, nursery, service
from lab.waiting import wait_until

MIB = 1 << 20


@contextlib.contextmanager
def furnished(home: Path) -> Iterator[Installation]:
    with installed(home) as made:
        made.add_repository("main", encrypted=False)
        (made.vms / "vm.img").write_bytes(random.Random(1).randbytes(2 * MIB))
        made.add_job("quick", repository="main", include="vm.img")
        made.add_job("slow", "--bandwidth", "16 KiB", "--compression", "none", repository="main", include="slow.img")
        yield made


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with furnished(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="module")
def running(house: Installation) -> Iterator[Service]:
    with service(house) as made:
        nursery(house, made)
        yield made


def typed(house: Installation, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as users run it, a program of its own; with an empty environment but for what it needs."""
    command = [*house.command()[:1], *arguments]
    told = {**house.environment, **environment}
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=120, check=False)


@contextlib.contextmanager
def following(house: Installation) -> Iterator[subprocess.Popen[str]]:
    """``holdfast job run slow``, of which the transfer has begun."""
    stop_sessions(house)  # of a test that failed
    (house.vms / "slow.img").write_bytes(os.urandom(2 * MIB))
    command = [house.command()[0], "job", "run", "slow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=house.environment, text=True, **pipes) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "transfer" in line:
                break
        try:
            yield process
        finally:
            process.kill()


def stop_sessions(house: Installation) -> None:
    with catalogue(house) as catalog:
        for session in catalog.sessions.living():
            catalog.sessions.request_stop(session.id)
        wait_until(lambda: not catalog.sessions.living(), "the end of the session")


def _home(house: Installation) -> Path:
    return house.home / "manager"


def _loaded(pid: int) -> bool:
    """Whether a process has loaded what a command needs: msgspec is a library that each of them maps."""
    return "msgspec" in Path(f"/proc/{pid}/maps").read_text()


def _program(house: Installation) -> str:
    """What the commands of this installation are: see :func:`door.program`."""
    tell = "from holdfast_manager.nursery import door; print(door.program(), end='')"
    command = [sys.executable, "-P", "-c", tell]
    return subprocess.run(command, env=house.environment, capture_output=True, text=True, check=True).stdout


def _command(path: tuple[str, ...]) -> click.Command:
    found: click.Command = root
    for name in path:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found, obj=App()), name)
        assert inner is not None, path
        found = inner
    return found


def test_it_asks_nothing_names_no_file_and_may_be_run_elsewhere() -> None:
    for path in QUICK:
        rule = rule_of(path)
        assert not (rule.asks or rule.writes or rule.stays or rule.here), path
        named = {type(parameter.type).__name__ for parameter in _command(path).params if parameter.name != "config"}
        assert not any("Path" in name or "File" in name for name in named), path


def test_what_a_command_says_is_the_same(house: Installation, running: Service) -> None:
    first = json.loads(typed(house, "job", "run", "quick", "--output", "json").stdout)
    assert (first["result"], len(first["points"])) == ("success", 1)
    for command in (
        ("session", "show", str(first["id"])),
        ("point", "list", "--output", "json"),
        ("job", "show", "nothing-of-the-kind"),
        ("job", "run", "quick", "--what-is-this"),
        ("job", "list", "--help"),
    ):
        # a search path of its own is another program, which the nursery does not run
        loaded = typed(house, *command, PYTHONPATH=f"{house.environment['PYTHONPATH']}:/nowhere")
        forked = typed(house, *command)
        assert (forked.returncode, forked.stdout, forked.stderr) == (loaded.returncode, loaded.stdout, loaded.stderr)
    far = typed(house, "session", "show", str(first["id"]), TZ="Asia/Kathmandu").stdout
    assert far != typed(house, "session", "show", str(first["id"]), TZ="UTC").stdout


def test_ctrl_c_stops_the_session_and_waits_for_it(house: Installation, running: Service) -> None:
    with following(house) as process:
        assert not _loaded(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stdout is not None
        assert "stopping session" in process.stderr.read()
        assert "backup by job slow: cancelled" in process.stdout.read()
    assert process.returncode == 130


def test_ctrl_c_before_the_command_is_there_keeps_it_from_beginning(house: Installation, running: Service) -> None:
    asked = door.Asked(door.COMMAND, _program(house), "", "/", 0o22, ("job", "run", "quick"), house.environment)
    with catalogue(house) as catalog, door.connect(_home(house)) as nursery:
        before = len(catalog.sessions.list())
        nursery.settimeout(60)
        nursery.send(asked.pack())
        (pid,) = door.PID.unpack(nursery.recv(door.PID.size))
        os.kill(pid, signal.SIGINT)
        with Path(os.devnull).open("r+b") as nothing:
            socket.send_fds(nursery, [door.GO], [nothing.fileno()] * 3)
        assert nursery.recv(1) == bytes([130])
        assert len(catalog.sessions.list()) == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_who_typed_it_and_the_session_goes_on(
    house: Installation, running: Service, how: signal.Signals
) -> None:
    with following(house) as process:
        (forked,) = [pid for pid in children(nursery(house, running)) if len(children(pid)) == 1]
        process.send_signal(how)
        assert process.wait(60) == -how
    wait_until(lambda: not alive(forked), "the end of the forked command")
    with catalogue(house) as catalog:
        (session,) = catalog.sessions.living()
        assert session.state is SessionState.RUNNING
    stop_sessions(house)


def test_a_command_that_is_killed_is_told(house: Installation, running: Service) -> None:
    with following(house) as process:
        (forked,) = [pid for pid in children(nursery(house, running)) if len(children(pid)) == 1]
        os.kill(forked, signal.SIGKILL)
        assert process.stderr is not None
        assert "was killed; a session that it started goes on" in process.stderr.read()
        assert process.wait(60) == 1
    with catalogue(house) as catalog:
        assert len(catalog.sessions.living()) == 1
    stop_sessions(house)


def test_strangers_words_and_silence_do_no_harm(house: Installation, running: Service) -> None:
    own = door.Asked.from_here(door.COMMAND, ("job", "list"), {})._replace(program=_program(house))
    others = (own._replace(program="another"), own._replace(life="another"), own._replace(life=door.SESSION))
    with contextlib.ExitStack() as stack:
        stack.enter_context(door.connect(_home(house)))  # says nothing
        for packet in (b"\xff" * 1000, b"a\0b\0c\0d\0", own.pack()[:-5], *(other.pack() for other in others)):
            asking = stack.enter_context(door.connect(_home(house)))
            asking.send(packet)
            assert asking.recv(64) == b"", packet  # no process id: it is not run
        assert typed(house, "job", "list").returncode == 0
    assert alive(nursery(house, running))


def test_nothing_depends_on_it(tmp_path: Path) -> None:
    with furnished(tmp_path) as house:
        _whatever_becomes_of_it(house)


def _whatever_becomes_of_it(house: Installation) -> None:
    with service(house) as killed:
        pid = nursery(house, killed)
        os.kill(pid, signal.SIGSTOP)  # it hangs: commands do not wait for it
        assert typed(house, "job", "list").returncode == 0
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), "the end of the template")
        assert typed(house, "job", "run", "quick").returncode == 0
        killed.kill()
    with service(house) as again:
        pid = nursery(house, again)
        again.kill()  # the template ends with it, and its door is left behind
        wait_until(lambda: not alive(pid), "the end of the template")
        assert typed(house, "job", "run", "quick").returncode == 0
    with service(house) as last:
        pid = nursery(house, last)
    assert not alive(pid)
    assert not (_home(house) / "commands.sock").exists()


def test_its_door_is_its_owners(house: Installation, running: Service) -> None:
    assert (_home(house) / "commands.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_nobody_elses_command_is_run(house: Installation, running: Service, tmp_path: Path) -> None:
    """Even one who gets through to the door: permissions are not all that keeps others out."""
    program = f"""
import os, sys
from pathlib import Path
from holdfast_manager.nursery import door
folder = os.open({str(_home(house))!r}, os.O_PATH)
os.chmod("commands.sock", 0o666, dir_fd=folder)
os.setresuid(65534, 65534, 65534)
import socket
asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    asked.connect(f"/proc/self/fd/{{folder}}/commands.sock")
    asked.send(b"x")
    print(asked.recv(64))
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (_home(house) / "commands.sock").chmod(0o600)
    assert done.stdout.strip() in ("b''", "ConnectionResetError", "BrokenPipeError", "PermissionError")
