"""The guest processors `qemu-ga` and `ssh` pass the suite with a real guest."""

from __future__ import annotations

import json
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Hashable, Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast_plugins.api import GuestAccess, GuestProcessor, VmInfo, VmRef
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor
from holdfast_plugins.guest.ssh import SshOptions, SshProcessor
from holdfast_plugins.testkit import GuestLab, GuestProcessorConformance
from lab import guest as lab_guest
from lab.guest_access import SocketAccess
from lab.guest_writers import FileWriter, database_guest

pytestmark = pytest.mark.timeout(300)  # the first test of a fresh checkout builds the guest
TESTS = Path(__file__).parents[1]
FREEZE_LIMIT_S = 2
SESSION = """
import json, sys
from holdfast_plugins.api import VmInfo, VmRef
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor
from holdfast_plugins.guest.ssh import SshOptions, SshProcessor
from lab.guest_access import NoAccess, SocketAccess
kind, socket, table = sys.argv[1:]
make, options = {"ssh": (SshProcessor, SshOptions), "qemu-ga": (QemuAgentProcessor, GuestOptions)}[kind]
access = SocketAccess(socket) if socket else NoAccess()
make(options(**json.loads(table)), {}).freeze(VmInfo(VmRef("db", "db"), ()), access, 60)
print("frozen", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab_guest.Guest]:
    with database_guest().resume(tmp_path_factory.mktemp("guest"), "qcow2") as guest:
        yield guest


@pytest.fixture(scope="module")
def writer(guest: lab_guest.Guest) -> FileWriter:
    return FileWriter(guest)


class InGuestLab(GuestLab):
    """A guest with a program that writes to a file all the time."""

    kills_sessions = True
    vm = VmInfo(VmRef("db", "db"), ())

    def __init__(self, guest: lab_guest.Guest, writer: FileWriter) -> None:
        self._guest = guest
        self._writer = writer

    def frozen(self) -> bool:
        return all(self._writer.stands() for _ in range(10))  # a busy machine's guest may rest for a moment

    def traces(self) -> Hashable:
        return self._guest.ssh("ls -d /run/holdfast.* 2>/dev/null || true")  # the agent may think it is frozen still

    def freeze_and_die(self) -> None:
        kind, socket, options = self._session()
        table = json.dumps(options | {"databases": [], "freeze_limit": FREEZE_LIMIT_S})
        command = [sys.executable, "-c", SESSION, kind, socket, table]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TESTS) as session:
            assert session.stdout is not None
            assert session.stdout.readline() == b"frozen\n"
            session.kill()

    @abstractmethod
    def _session(self) -> tuple[str, str, dict[str, object]]:
        """The kind of processor, the agent's socket and the options."""


class AgentLab(InGuestLab):
    needs_agent = True

    def processor(self) -> GuestProcessor:
        return QemuAgentProcessor(GuestOptions(databases=()), {})

    def access(self) -> GuestAccess:
        return SocketAccess(self._guest.agent.path)

    def _session(self) -> tuple[str, str, dict[str, object]]:
        return "qemu-ga", str(self._guest.agent.path), {}


class SshLab(InGuestLab):
    def __init__(self, guest: lab_guest.Guest, writer: FileWriter, folder: Path) -> None:
        super().__init__(guest, writer)
        known = folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{guest.ssh_port} {guest.image.host_key}\n")
        self._options: dict[str, object] = {
            "key_file": str(guest.image.key), "addresses": {"db": "127.0.0.1"}, "port": guest.ssh_port,
            "known_hosts_file": str(known),
        }  # fmt: skip

    def processor(self) -> GuestProcessor:
        return SshProcessor(msgspec.convert(self._options | {"databases": []}, SshOptions), {})

    def _session(self) -> tuple[str, str, dict[str, object]]:
        return "ssh", "", self._options


class TestQemuAgent(GuestProcessorConformance):
    @pytest.fixture
    def lab(self, guest: lab_guest.Guest, writer: FileWriter) -> GuestLab:
        return AgentLab(guest, writer)


class TestSsh(GuestProcessorConformance):
    @pytest.fixture
    def lab(self, guest: lab_guest.Guest, writer: FileWriter, tmp_path: Path) -> GuestLab:
        return SshLab(guest, writer, tmp_path)
