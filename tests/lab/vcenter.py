"""A vCenter or an ESXi host to test against: govmomi's simulator with real disks (``tests/lab/vcsim``).

with vcenter(tmp_path) as center:
    vm = center.create("web", disks=[MIB])
    center.write(vm, 0, [(0, b"hello")])
    with center.faults(Fault("RemoveSnapshot_Task", "FileLocked")):
        ...
    center.assert_clean()
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lab.certificates import Certificates, make_certificates
from lab.guest.image import CACHE, fingerprint, locked
from lab.tools import missing

SOURCES = Path(__file__).with_name("vcsim")
USER, NAME = "backup@vsphere.local", "vcenter.lab"
GRAIN_BYTES = 64 << 10
"""Of change tracking: what the simulator says changed is in pieces of this size."""
MOST_EXTENTS = 2000
"""That one reply about changed areas holds."""
_TIMEOUT_S = 60.0
_OLDEST_GO = (1, 23)


@dataclass(frozen=True)
class LabVm:
    """``vm_id``: its managed object id. ``disks``: the keys of its disks, in their order."""

    name: str
    vm_id: str
    disks: tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on command.

    ``method``: of the API (``RemoveSnapshot_Task``; both ways to make a snapshot are one), or ``GET /folder``.
    ``fault``: the name of a type of the API, or ``ConsolidationNeeded`` for a snapshot that goes and leaves its deltas;
    "" for a delay alone. ``status``: what ``/folder`` answers. ``quiesce``: only snapshots of quiesced guests.
    ``call``: the call fails, not its task. ``after``: the task does its work first. ``skip``: how often it goes well
    before. ``count``: how often; 0 for always.
    """

    method: str
    fault: str = ""
    vm: str = ""
    status: int = 0
    quiesce: bool = False
    call: bool = False
    after: bool = False
    delay_ms: int = 0
    skip: int = 0
    count: int = 1


class VCenter:
    """A running simulator. Made by :func:`vcenter`."""

    def __init__(self, control: Path, port: int, password: str, certificates: Certificates) -> None:
        self.host, self.port = "127.0.0.1", port
        self.user, self.password = USER, password
        self.certificates = certificates
        self._control = control

    @property
    def origin(self) -> str:
        """What disk URLs on it begin with."""
        return f"https://{self.host}:{self.port}"

    def connect(self) -> Any:
        """A session of pyvmomi's: its ServiceInstance. The caller ends it."""
        from pyVim.connect import SmartConnect

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.certificates.ca)
        return SmartConnect(
            host=self.host, port=self.port, user=self.user, pwd=self.password, sslContext=context,
            disableSslCertValidation=False,
        )  # fmt: skip

    def create(
        self, name: str, disks: Sequence[int], *, datastore: int = 0, host: int = 0, off: bool = False, folder: str = ""
    ) -> LabVm:
        """A VM with disks of these sizes (multiples of 1 KiB); it runs unless ``off``."""
        wanted = {"name": name, "disks": list(disks), "datastore": datastore, "host": host, "off": off}
        made = self._ask("POST", "/vms", json.dumps(wanted | {"folder": folder}).encode())
        return LabVm(name, made["id"], tuple(made["disks"]))

    def find(self, name: str) -> str:
        """The managed object id of a VM."""
        return str(self.state()["machines"][name]["id"])

    def datastore(self, name: str) -> Path:
        """Where a datastore's files really are, as a host that has it mounted sees them."""
        return Path(self.state()["datastores"][name])

    def write(self, vm: LabVm, disk: int, writes: Sequence[tuple[int, bytes]]) -> None:
        """What the guest writes to its disk number ``disk``: (offset, bytes), all before the next snapshot or none."""
        frames = (at.to_bytes(8, "big") + len(data).to_bytes(8, "big") + data for at, data in writes)
        self._ask("POST", f"{_path(vm)}/disks/{vm.disks[disk]}", b"".join(frames))

    def content(self, vm: LabVm, disk: int, snapshot: str = "") -> bytes:
        """The whole disk as the guest sees it, or as the snapshot with this managed object id froze it."""
        query = f"?snapshot={snapshot}" if snapshot else ""
        return self._request("GET", f"{_path(vm)}/disks/{vm.disks[disk]}{query}")

    def crash(self, vm: LabVm) -> None:
        """Its host lost power: change tracking begins anew."""
        self._ask("POST", f"{_path(vm)}/crash")

    def latencies(self, **milliseconds: int) -> None:
        """What hosts measure of datastores from now on, by their names."""
        self._ask("PUT", "/latencies", json.dumps(milliseconds).encode())

    def expire_sessions(self) -> int:
        """Log everybody out; how many they were."""
        return len(self._ask("DELETE", "/sessions"))

    @contextlib.contextmanager
    def faults(self, *faults: Fault) -> Iterator[None]:
        """These go wrong meanwhile; one that never did fails the test."""
        self._ask("PUT", "/faults", json.dumps([_camel(fault) for fault in faults]).encode())
        try:
            yield
            told = self._ask("GET", "/faults")
        finally:
            self._ask("PUT", "/faults", b"[]")
        unused = [rule for rule in told if not rule["Hits"]]
        assert not unused, f"never went wrong: {unused}"

    def state(self) -> dict[str, Any]:
        """``machines`` by name (``id``, ``snapshots``: a number, ``disks``: their files, ``uuids``,
        ``consolidation_needed``), ``deltas``: the files of snapshots, ``datastores``: folders by name, ``tasks`` that
        run, ``sessions``, ``requests`` to /folder."""
        state: dict[str, Any] = self._ask("GET", "/state")
        return state

    def assert_clean(self, sessions: int = 0) -> None:
        """No snapshot, no delta, no task that runs, and so many sessions."""
        state = self.state()
        left = {name: vm for name, vm in state["machines"].items() if vm["snapshots"] or vm["consolidation_needed"]}
        assert not left
        assert not state["deltas"]
        assert (state["tasks"], state["sessions"]) == (0, sessions)

    def _ask(self, method: str, path: str, body: bytes = b"") -> Any:
        return json.loads(self._request(method, path, body))

    def _request(self, method: str, path: str, body: bytes = b"") -> bytes:
        with contextlib.closing(_UnixConnection(self._control)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            told = response.read()
            assert response.status == 200, told.decode()
            return told


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("lab", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def vcenter(*, esx: bool = False, hosts: int = 2, datastores: int = 2, name: str = NAME) -> Iterator[VCenter]:
    """A simulator that runs, without VMs; gone afterwards with all that it held. ``name``: in its certificate."""
    program = build()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-vc-"))  # short: a socket's path has at most 107 bytes
    password = secrets.token_hex(8)
    certificates = make_certificates(folder / "tls", name, "127.0.0.2")
    command = [
        str(program),
        f"-control={folder}/control",
        f"-user={USER}",
        f"-password={password}",
        f"-esx={esx}".lower(),
    ]
    command += [f"-certificate={certificates.certificate}", f"-key={certificates.key}"]
    command += [f"-hosts={hosts}", f"-datastores={datastores}"]
    environment = os.environ | {"TMPDIR": str(folder)}
    try:
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
            ) as server,
        ):
            assert server.stdin is not None
            assert server.stdout is not None
            told = server.stdout.readline()
            assert told, (folder / "log").read_text()
            port = int(json.loads(told)["address"].rpartition(":")[2])
            try:
                yield VCenter(folder / "control", port, password, certificates)
            finally:
                server.kill()
    finally:
        shutil.rmtree(folder)


@cache
def build(folder: Path = CACHE) -> Path:
    """The simulator's program, made when the cache does not have it: half a minute to a minute, once."""
    go = _go()
    sources = [*SOURCES.glob("*.go"), SOURCES / "go.mod", SOURCES / "go.sum"]
    program = folder / f"vcsim-{fingerprint('vcsim', *sources)}"
    with locked(folder):
        if not program.exists():
            for older in folder.glob("vcsim-*"):
                older.unlink()
            fetch = subprocess.run([go, "mod", "download"], cwd=SOURCES, capture_output=True, text=True, check=False)
            if fetch.returncode:
                missing(f"the simulator's Go modules cannot be fetched: {fetch.stderr.strip()[-300:]}")
            half = folder / f".vcsim.{os.getpid()}"
            subprocess.run(
                [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", half], cwd=SOURCES, check=True
            )
            half.rename(program)
    return program


def _go() -> str:
    """The Go tool, which Debian keeps off the PATH where it is a backport."""
    found = [shutil.which("go"), *map(str, sorted(Path("/usr/lib").glob("go-*/bin/go"), reverse=True))]
    for go in filter(None, found):
        told = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True, cwd="/").stdout
        version = told.strip().removeprefix("go").split(".")
        if tuple(int(part) for part in version[:2] if part.isdigit()) >= _OLDEST_GO:
            return go
    missing(
        "Go 1.23 or newer is not installed, which builds the vSphere simulator; Debian 12: "
        "apt install -t bookworm-backports golang-1.23-go"
    )
    raise AssertionError


def _path(vm: LabVm) -> str:
    return f"/vms/{quote(vm.name, safe='')}"


def _camel(fault: Fault) -> dict[str, Any]:
    return {name.replace("_", ""): value for name, value in asdict(fault).items()}
