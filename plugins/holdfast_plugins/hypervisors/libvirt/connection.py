"""A connection to libvirt that is kept alive, made anew when it was lost, and never waited for without end."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

from holdfast_agent.errors import HypervisorUnreachable, VmNotFound
from holdfast_plugins.api import VmRef

from .binding import Binding, Code, LibvirtRefused, load_binding
from .domain import Domain

_KEEP_ALIVE_S, _KEEP_ALIVE_TIMES = 5, 6
_UUID = re.compile(r"[0-9A-Fa-f-]{32,36}")
_FROM_RPC = 7  # VIR_FROM_RPC
_T = TypeVar("_T")


class Connection:
    """Thread-safe, as libvirt's own is. ``uri``: as libvirt takes it; ``secret``: ``username`` and ``password``.

    Every call of libvirt is made in a thread of its own, because libvirt has no time-outs: a daemon whose QEMU hangs
    does not answer. A call that took too long is left behind with its connection, and the next one opens another.
    """

    def __init__(self, uri: str, secret: Mapping[str, str], timeout_s: float) -> None:
        self.uri = uri
        self._secret = secret
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._open: Any = None

    @property
    def is_local(self) -> bool:
        """Whether the hypervisor's files are this machine's: the URI names no other host."""
        return not urlsplit(self.uri).hostname

    @property
    def binding(self) -> Binding:
        return load_binding(self.uri)

    def connect(self) -> None:
        """Raises ``HypervisorUnreachable`` (retryable)."""
        self._connection()

    def close(self) -> None:
        """Must not raise; the connection is opened again if it is used again."""
        with self._lock:
            raw, self._open = self._open, None
        if raw is not None:
            with suppress(HypervisorUnreachable, LibvirtRefused):
                self.call("closing the connection", raw.close, timeout_s=10)

    def domain(self, vm: VmRef) -> Domain:
        """Look a domain up by its UUID. Raises ``VmNotFound`` or ``HypervisorUnreachable``."""
        if not _UUID.fullmatch(vm.vm_id):
            raise VmNotFound(vm=vm.name, server=self.uri)
        try:
            return Domain(self, self.ask(lambda raw: raw.lookupByUUIDString(vm.vm_id)))
        except LibvirtRefused as error:
            raise VmNotFound(vm=vm.name, server=self.uri) from error

    def domain_named(self, name: str) -> Domain | None:
        """The domain that has this name now."""
        try:
            return Domain(self, self.ask(lambda raw: raw.lookupByName(name)))
        except LibvirtRefused as error:
            if error.code == Code.NO_DOMAIN:
                return None
            raise

    def domains(self) -> Sequence[Domain]:
        return [Domain(self, raw) for raw in self.ask(lambda raw: raw.listAllDomains(0))]

    def define(self, xml: str) -> Domain:
        """Make a persistent domain, or change the one of its UUID. Raises :class:`LibvirtRefused`."""
        return Domain(self, self.ask(lambda raw: raw.defineXML(xml)))

    def best_kind(self) -> str:
        """The type of domains that run fastest here: "kvm", or "qemu" without the processor's help."""
        try:
            self.ask(lambda raw: raw.getDomainCapabilities(None, None, None, "kvm", 0))
        except LibvirtRefused:
            return "qemu"
        return "kvm"

    def qemu_version(self) -> tuple[int, int, int]:
        """Of the QEMU that domains are started with."""
        number = int(self.ask(lambda raw: raw.getVersion()))
        return number // 1_000_000, number // 1000 % 1000, number % 1000

    def raw(self) -> Any:
        """libvirt's own object, of the connection that there is now. Raises ``HypervisorUnreachable``."""
        return self._connection()

    @cached_property
    def host(self) -> str:
        """The name that the host gives itself."""
        return str(self.ask(lambda raw: raw.getHostname()))

    def ask(self, question: Callable[[Any], _T]) -> _T:
        """What libvirt says to ``question``, which is given the raw connection.

        One that was lost is opened again; ``question`` is asked once, for it may have been carried out.
        """
        raw = self._connection()
        return self.call("an answer", lambda: question(raw))

    def call(self, what: str, function: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Run ``function``, which calls libvirt, for so long at most.

        Raises :class:`LibvirtRefused`, or ``HypervisorUnreachable`` when the connection is lost or nothing came.
        """
        limit = self._timeout_s if timeout_s is None else timeout_s
        answer: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                answer.put((function(), None))
            except BaseException as error:  # noqa: BLE001 (it is raised again in the thread that asked)
                answer.put((None, error))

        threading.Thread(target=work, name="libvirt-call", daemon=True).start()
        try:
            result, error = answer.get(timeout=limit)
        except queue.Empty:
            self._drop()
            reason = f"libvirt has not given {what} for {limit:g} s"
            raise HypervisorUnreachable(server=self.uri, reason=reason) from None
        if error is not None:
            raise self._translated(error) from error
        return result  # type: ignore[return-value]  # None only where the function returns None

    def _connection(self) -> Any:
        with self._lock:
            if self._open is not None and self._open.isAlive():
                return self._open
            self._open = None
            binding = self.binding
            try:
                raw = self.call("a connection", lambda: self._open_raw(binding))
            except LibvirtRefused as error:
                raise HypervisorUnreachable(server=self.uri, reason=str(error)) from error
            with suppress(binding.api.libvirtError):  # a driver in this process needs none
                raw.setKeepAlive(_KEEP_ALIVE_S, _KEEP_ALIVE_TIMES)
            self._open = raw
            return raw

    def _open_raw(self, binding: Binding) -> Any:
        api = binding.api
        if not self._secret:
            return api.open(self.uri)
        kinds = [api.VIR_CRED_AUTHNAME, api.VIR_CRED_PASSPHRASE]

        def answer(credentials: list[Any], _data: object) -> int:
            for credential in credentials:
                name = "username" if credential[0] == api.VIR_CRED_AUTHNAME else "password"
                credential[4] = self._secret.get(name, "")
            return 0

        return api.openAuth(self.uri, [kinds, answer, None], 0)

    def _drop(self) -> None:
        """Forget a connection that hangs; it is not closed, which would wait for what hangs."""
        self._open = None

    def _translated(self, error: BaseException) -> BaseException:
        if not isinstance(error, self.binding.api.libvirtError):
            return error
        code, message = error.get_error_code() or 0, error.get_error_message() or str(error)
        if error.get_error_domain() == _FROM_RPC:
            return HypervisorUnreachable(server=self.uri, reason=message)
        return LibvirtRefused(code, message)
