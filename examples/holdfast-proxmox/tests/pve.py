"""A simulated Proxmox VE: as much of its API as the plugin uses, over TLS, on files that stand for its volumes.

It answers as the documentation of the API says, with tasks that take a moment, and with errors in the cluster's form.
"""

from __future__ import annotations

import json
import re
import shutil
import ssl
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

NODE = "pve1"
TOKEN = "6f1e7cbe-5ec8-4a3c-9c41-5c0d3f1a7e11"
AUTHORISATION = f"PVEAPIToken=holdfast@pve!backup={TOKEN}"


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Vm:
    config: dict[str, str]
    status: str = "stopped"
    snapshots: dict[str, dict[str, str]] = field(default_factory=dict)


class Pve:
    """The cluster's state. ``fail``: why the next call of a kind (such as "POST snapshot") fails."""

    def __init__(self, directory: Path) -> None:
        self.storages = {
            "local-zfs": ("zfspool", directory / "zvol" / "rpool" / "data"),
            "local-lvm": ("lvmthin", directory / "pve"),
            "local": ("dir", directory / "vz"),
        }
        for _, place in self.storages.values():
            place.mkdir(parents=True)
        self.vms: dict[int, Vm] = {}
        self.tasks: dict[str, list[str]] = {}
        self.fail: dict[str, str] = {}
        self.lock = threading.RLock()

    def add_vm(self, vmid: int, name: str, storage: str, disks: dict[str, int]) -> None:
        config = {"name": name, "memory": "2048", "cores": "2", "ide2": "none,media=cdrom", "digest": "d" * 40}
        config["smbios1"] = f"uuid={uuid.uuid4()}"
        for number, (key, size) in enumerate(disks.items()):
            volume = f"vm-{vmid}-disk-{number}"
            self._make(storage, volume, size)
            config[key] = f"{storage}:{volume},discard=on,size={size // 1024}K"
        self.vms[vmid] = Vm(config)

    def path(self, storage: str, volume: str) -> Path:
        return self.storages[storage][1] / volume

    def frozen(self, storage: str, volume: str, snapshot: str) -> Path:
        kind, place = self.storages[storage]
        return place / (f"{volume}@{snapshot}" if kind == "zfspool" else f"snap_{volume}_{snapshot}")

    def disk_path(self, vmid: int, key: str) -> Path:
        return self.path(*self._volume(self.vms[vmid], key))

    def traces(self) -> frozenset[str]:
        files = {str(path) for _, place in self.storages.values() for path in place.iterdir()}
        vms = {f"{vmid} {vm.config['name']} {sorted(vm.snapshots)}" for vmid, vm in self.vms.items()}
        return frozenset(files | vms)

    def answer(self, method: str, path: str, given: dict[str, str]) -> object:
        """Every request comes by here."""
        with self.lock:
            for pattern, handler in self._routes():
                matched = re.fullmatch(pattern, f"{method} {path}")
                if matched:
                    return handler(*matched.groups(), **given)
        raise Refused(501, f"Method '{method} {path}' not implemented")

    def _routes(self) -> list[tuple[str, Callable[..., object]]]:
        node, vm, storage = f"/nodes/{NODE}", f"/nodes/{NODE}/qemu/([0-9]+)", f"/nodes/{NODE}/storage/([^/]+)"
        return [
            ("GET /cluster/resources", self._resources),
            ("GET /cluster/nextid", lambda: str(next(n for n in range(100, 999) if n not in self.vms))),
            (f"GET {vm}/config", lambda vmid: self._vm(vmid).config),
            (f"GET {vm}/snapshot", lambda vmid: [{"name": name} for name in [*self._vm(vmid).snapshots, "current"]]),
            (f"POST {vm}/snapshot", lambda vmid, **given: self._task("POST snapshot", self._snapshot, vmid, **given)),
            (f"DELETE {vm}/snapshot/([^/]+)", lambda *ids: self._task("DELETE snapshot", self._unsnapshot, *ids)),
            (f"POST {node}/qemu", lambda **given: self._task("POST qemu", self._create, **given)),
            (f"DELETE {vm}", lambda vmid, purge: self._task("DELETE qemu", self._delete, vmid)),
            ("GET /storage/([^/]+)", self._storage),
            (f"GET {storage}/content/(.+)", self._content),
            (f"GET {storage}/content", self._contents),
            (f"POST {storage}/content", self._allocate),
            (f"DELETE {storage}/content/(.+)", lambda *ids: self._task("DELETE content", self._free, *ids)),
            (f"GET {node}/tasks/(.+)/status", self._task_status),
        ]

    def _resources(self, type: str) -> list[dict[str, object]]:
        assert type == "vm"
        listed = [
            {"vmid": vmid, "node": NODE, "type": "qemu", "name": vm.config["name"], "status": vm.status, "template": 0}
            for vmid, vm in self.vms.items()
        ]
        return [*listed, {"vmid": 900, "node": NODE, "type": "lxc", "name": "container", "status": "running"}]

    def _vm(self, vmid: str) -> Vm:
        if int(vmid) not in self.vms:
            raise Refused(500, f"Configuration file 'nodes/{NODE}/qemu-server/{vmid}.conf' does not exist")
        return self.vms[int(vmid)]

    @staticmethod
    def _volume(vm: Vm, key: str) -> tuple[str, str]:
        storage, _, volume = vm.config[key].split(",")[0].partition(":")
        return storage, volume

    def _drives(self, vm: Vm) -> list[tuple[str, str]]:
        return [self._volume(vm, key) for key in vm.config if re.fullmatch("(scsi|virtio|sata)[0-9]+", key)]

    def _snapshot(self, vmid: str, snapname: str, description: str) -> None:
        vm = self._vm(vmid)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{1,39}", snapname) or snapname in vm.snapshots:
            raise Refused(400, f"snapname: invalid or taken: {snapname}")
        for storage, volume in self._drives(vm):
            shutil.copyfile(self.path(storage, volume), self.frozen(storage, volume, snapname))
        vm.snapshots[snapname] = {"description": description}

    def _unsnapshot(self, vmid: str, name: str) -> None:
        vm = self._vm(vmid)
        if vm.snapshots.pop(name, None) is None:
            raise Refused(500, f"snapshot '{name}' does not exist")
        for storage, volume in self._drives(vm):
            self.frozen(storage, volume, name).unlink(missing_ok=True)

    def _create(self, vmid: str, **config: str) -> None:
        if int(vmid) in self.vms:
            raise Refused(500, f"unable to create VM {vmid}: config file already exists")
        made = Vm({"smbios1": f"uuid={uuid.uuid4()}", **config})
        for storage, volume in self._drives(made):
            if not self.path(storage, volume).exists():
                raise Refused(500, f"volume '{storage}:{volume}' does not exist")
        self.vms[int(vmid)] = made

    def _delete(self, vmid: str) -> None:
        vm = self._vm(vmid)
        if vm.status == "running":
            raise Refused(500, f"VM {vmid} is running - destroy failed")
        for name in list(vm.snapshots):
            self._unsnapshot(vmid, name)
        for storage, volume in self._drives(self.vms.pop(int(vmid))):
            self.path(storage, volume).unlink()

    def _storage(self, name: str) -> dict[str, str]:
        if name not in self.storages:
            raise Refused(500, f"storage '{name}' does not exist")
        return {"storage": name, "type": self.storages[name][0]}

    def _content(self, storage: str, volume: str) -> dict[str, object]:
        path = self.path(storage, volume)
        if not path.exists():
            raise Refused(500, f"no such volume '{storage}:{volume}'")
        return {"path": str(path), "size": path.stat().st_size, "used": 0, "format": "raw"}

    def _contents(self, storage: str, vmid: str, content: str) -> list[dict[str, object]]:
        assert content == "images"
        names = (path.name for path in self.storages[storage][1].iterdir())
        return [{"volid": f"{storage}:{name}", "vmid": int(vmid)} for name in names if name.startswith(f"vm-{vmid}-")]

    def _allocate(self, storage: str, vmid: str, filename: str, size: str) -> str:
        if self.fail.pop("POST content", ""):
            raise Refused(500, "lvcreate error: insufficient free space")
        if not filename.startswith(f"vm-{vmid}-") or self.path(storage, filename).exists():
            raise Refused(400, f"filename: illegal or taken: {filename}")
        self._make(storage, filename, int(size) * 1024)
        return f"{storage}:{filename}"

    def _make(self, storage: str, volume: str, size: int) -> None:
        with self.path(storage, volume).open("xb") as file:
            file.truncate(size)

    def _free(self, storage: str, volume: str) -> None:
        self.path(storage, volume).unlink()

    def _task(self, kind: str, work: Callable[..., None], *ids: str, **given: str) -> str:
        """Work that is answered with a task's id: it is done at once, and told as running for a moment."""
        upid = f"UPID:{NODE}:{len(self.tasks):08X}:00000000:65000000:task::holdfast@pve!backup:"
        outcome = self.fail.pop(kind, "")
        if not outcome:
            try:
                work(*ids, **given)
                outcome = "OK"
            except Refused as refused:
                outcome = str(refused)
        self.tasks[upid] = ["running", outcome]
        return upid

    def _task_status(self, upid: str) -> dict[str, str]:
        states = self.tasks[upid]
        if len(states) > 1:
            return {"status": states.pop(0)}
        return {"status": "stopped", "exitstatus": states[0]}


def serve(pve: Pve, certificate: Path, key: Path) -> ThreadingHTTPServer:
    """A server on loopback, in threads of its own; its owner shuts it down and closes it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # an answer is one write: TCP waits for an acknowledgement between two

        def _handle(self) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            url = urlsplit(self.path)
            arguments = dict(parse_qsl(url.query or given))
            try:
                if self.headers.get("Authorization") != AUTHORISATION:
                    raise Refused(401, "authentication failure")
                self._send(200, "OK", pve.answer(self.command, unquote(url.path).removeprefix("/api2/json"), arguments))
            except Refused as refused:
                self._send(refused.status, str(refused), None)

        def _send(self, status: int, message: str, data: object) -> None:
            body = json.dumps({"data": data}).encode()
            self.send_response(status, message)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_PUT = _handle

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that goes in the middle is none."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
