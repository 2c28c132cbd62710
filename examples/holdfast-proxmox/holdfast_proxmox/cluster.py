"""The cluster by its API: every answer checked, every task waited for, every error in the cluster's own words.

Facts: https://pve.proxmox.com/pve-docs/api-viewer/. Long work is a task: its id (UPID) comes back at once, and
``/nodes/NODE/tasks/UPID/status`` tells when it has ``stopped`` and whether its ``exitstatus`` is OK.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
import requests
from proxmoxer import ProxmoxAPI
from proxmoxer.core import AuthenticationError, ResourceException

from holdfast_agent.errors import HypervisorUnreachable

from .options import ProxmoxOptions

T = TypeVar("T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 2.0
"""Between looks at a task: a snapshot takes a moment, its removal may take an hour."""
_LONGEST_REASON = 500
Node = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$")]
VmId = Annotated[int, msgspec.Meta(ge=100, le=999_999_999)]


class ClusterRefused(Exception):
    """The cluster's own refusal, in its words."""


class ListedVm(msgspec.Struct, frozen=True):
    """A VM or container as ``/cluster/resources`` lists it."""

    vmid: VmId
    node: Node
    type: str
    name: str = ""
    status: str = ""
    template: int = 0


class Storage(msgspec.Struct, frozen=True):
    """A storage's definition."""

    storage: str
    type: str


class Volume(msgspec.Struct, frozen=True):
    """A volume: its path on the node and its size in bytes."""

    path: str
    size: Annotated[int, msgspec.Meta(ge=1)]


class _TaskStatus(msgspec.Struct, frozen=True):
    status: str
    exitstatus: str = ""


class Cluster:
    """Thread-safe: each thread has an HTTP session of its own. A token needs no login, so there is nothing to renew."""

    def __init__(self, options: ProxmoxOptions, token: str) -> None:
        self._options = options
        self._token = token
        self._local = threading.local()

    def vms(self) -> list[ListedVm]:
        """All VMs of the cluster; neither containers nor templates."""
        listed = self._asked(list[ListedVm], lambda api: api.cluster.resources.get(type="vm"))
        return [vm for vm in listed if vm.type == "qemu" and not vm.template]

    def config(self, vm: ListedVm) -> dict[str, str]:
        """A VM's configuration, all values as text."""
        found = self._asked(dict[str, str | int | float], lambda api: api.nodes(vm.node).qemu(vm.vmid).config.get())
        return {key: str(value) for key, value in found.items()}

    def snapshots(self, vm: ListedVm) -> set[str]:
        found = self._asked(list[dict[str, Any]], lambda api: api.nodes(vm.node).qemu(vm.vmid).snapshot.get())
        return {str(each.get("name")) for each in found}

    def take_snapshot(self, vm: ListedVm, name: str, description: str) -> None:
        self._done(
            vm.node, lambda api: api.nodes(vm.node).qemu(vm.vmid).snapshot.post(snapname=name, description=description)
        )

    def remove_snapshot(self, vm: ListedVm, name: str) -> None:
        self._done(vm.node, lambda api: api.nodes(vm.node).qemu(vm.vmid).snapshot(name).delete())

    def storage(self, name: str) -> Storage:
        return self._asked(Storage, lambda api: api.storage(name).get())

    def volume(self, node: str, storage: str, volume: str) -> Volume:
        return self._asked(Volume, lambda api: api.nodes(node).storage(storage).content(volume).get())

    def volumes_of(self, node: str, storage: str, vmid: int) -> set[str]:
        """Names of the volumes that a storage keeps for a VM."""
        found = self._asked(
            list[dict[str, Any]], lambda api: api.nodes(node).storage(storage).content.get(vmid=vmid, content="images")
        )
        return {str(each.get("volid")).partition(":")[2] for each in found}

    def allocate(self, node: str, storage: str, vmid: int, volume: str, size_bytes: int) -> None:
        kib = -(-size_bytes // 1024)
        self._asked(
            str,
            lambda api: api.nodes(node).storage(storage).content.post(vmid=vmid, filename=volume, size=str(kib)),
        )

    def free(self, node: str, storage: str, volume: str) -> None:
        """Remove a volume. Older versions answer when it is done, newer ones with a task."""
        self._done(node, lambda api: api.nodes(node).storage(storage).content(volume).delete())

    def next_id(self) -> int:
        return self._asked(int, lambda api: api.cluster.nextid.get())

    def create_vm(self, node: str, vmid: int, config: dict[str, str]) -> None:
        self._done(node, lambda api: api.nodes(node).qemu.post(vmid=vmid, **config))

    def delete_vm(self, vm: ListedVm) -> None:
        """A VM that is stopped, with its disks."""
        self._done(vm.node, lambda api: api.nodes(vm.node).qemu(vm.vmid).delete(purge=1))

    def _done(self, node: str, begin: Callable[[ProxmoxAPI], Any]) -> None:
        """Begin a task and wait for its end."""
        task = self._asked(str, lambda api: begin(api) or "")
        deadline, pause_s = time.monotonic() + self._options.task_timeout, _FIRST_PAUSE_S
        while task.startswith("UPID:"):
            status = self._asked(_TaskStatus, lambda api: api.nodes(node).tasks(task).status.get())
            if status.status == "stopped":
                # Warnings are told as "WARNINGS: n"; the work is done then.
                if status.exitstatus != "OK" and not status.exitstatus.startswith("WARNINGS"):
                    raise ClusterRefused(status.exitstatus[:_LONGEST_REASON])
                return
            if time.monotonic() > deadline:
                raise ClusterRefused(f"a task is not done after {self._options.task_timeout} s: {task}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _asked(self, kind: type[T], ask: Callable[[ProxmoxAPI], Any]) -> T:
        """The answer, of the type ``kind``. Raises :class:`ClusterRefused` or ``HypervisorUnreachable``."""
        try:
            return msgspec.convert(ask(self._api()), kind, strict=False)
        except ResourceException as error:
            if error.status_code in (401, 403):
                raise HypervisorUnreachable(server=self._options.host, reason=f"denied: {_words(error)}") from None
            raise ClusterRefused(_words(error)) from error
        except (requests.RequestException, AuthenticationError, OSError) as error:
            reason = f"{type(error).__name__}: {error}".replace(self._token, "…")
            raise HypervisorUnreachable(server=self._options.host, reason=reason[:_LONGEST_REASON]) from None
        except msgspec.ValidationError as error:
            reason = f"an answer that is none of Proxmox VE's: {error}"
            raise HypervisorUnreachable(server=self._options.host, reason=reason[:_LONGEST_REASON]) from error

    def _api(self) -> ProxmoxAPI:
        if not hasattr(self._local, "api"):
            options = self._options
            self._local.api = ProxmoxAPI(
                options.host,
                port=options.port,
                user=options.user,
                token_name=options.token_name,
                token_value=self._token,
                verify_ssl=options.ca_file or True,
                timeout=options.timeout,
            )
        return self._local.api


def _words(error: ResourceException) -> str:
    told = str(error.content or error.status_message or error)  # the cluster says it in the line of the status
    return " ".join(f"{told} {error.errors or ''}".split())[:_LONGEST_REASON]
