"""The package pyvmomi, loaded when a server is connected to, and its faults in words.

Faults and property names are those of the vSphere Web Services API reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from xml.parsers.expat import ExpatError

import msgspec

from holdfast_agent.errors import HypervisorUnreachable

_OLDEST_API = (6, 5)  # CreateSnapshotEx_Task, and FetchUserPrivilegeOnEntities where it is asked for
_FIRST_VERSION = "vim.version.version9"  # of vSphere 5.5, which every server speaks
_MOST_TEXT = 300


class VsphereRefused(Exception):
    """The server answered with a fault. ``fault``: its name in the API, such as "FileLocked"."""

    def __init__(self, fault: str, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class Binding(msgspec.Struct, frozen=True):
    """The parts of pyvmomi that are used: the types of the API, and the class that speaks SOAP."""

    vim: Any
    vmodl: Any
    soap: Any

    def new_stub(self, host: str, port: int, connections: type, timeout_s: float, idle_s: float) -> Any:
        """What speaks to one server, over connections of the given class. Connects to nothing yet."""
        stub = _careful(self.soap, self.vmodl)(
            host=host,
            port=port,
            version=_FIRST_VERSION,
            poolSize=8,
            connectionPoolTimeout=idle_s,
            acceptCompressedResponses=False,  # so that a small answer is not a large one
        )
        stub.scheme = connections
        stub.schemeArgs = {"timeout": timeout_s}
        return stub

    def speak(self, stub: Any, api_version: str) -> None:
        """Take the newest version of the API that both sides know. Raises :class:`VsphereRefused` for one too old."""
        from pyVmomi.VmomiSupport import versionMap

        offered = _numbers(api_version)
        if offered < _OLDEST_API:
            raise VsphereRefused("NotSupported", f"its API is {api_version[:20]!r}, and 6.5 is the oldest that will do")
        known = {_numbers(name[6:]): name for name in versionMap if re.fullmatch(r"vim25/[0-9.]+", name)}
        stub.version = versionMap[known[max(each for each in known if each <= offered)]]


class UnreadableAnswer(OSError):
    """The server's answer makes no sense to pyvmomi, which raises whatever it stumbles over."""


def _careful(soap: Any, vmodl: Any) -> Any:
    """The class of pyvmomi's that speaks SOAP, with every answer that cannot be read as one kind of error."""

    class CarefulStub(soap.SoapStubAdapter):  # type: ignore[misc]  # pyvmomi has no types
        def InvokeMethod(self, *arguments: Any, **others: Any) -> Any:  # noqa: N802 (pyvmomi's name)
            try:
                return super().InvokeMethod(*arguments, **others)
            except (vmodl.MethodFault, OSError, HTTPException, ExpatError):
                raise
            except Exception as error:  # what it raises for malformed answers is not said anywhere
                raise UnreadableAnswer(f"its answer cannot be read ({type(error).__name__}: {error})") from error

    return CarefulStub


def load_binding(server: str) -> Binding:
    """Raises ``HypervisorUnreachable`` if the package is not there."""
    try:
        from pyVmomi import SoapAdapter, vim, vmodl
    except ImportError as error:
        reason = f"the package pyvmomi cannot be loaded ({error}): pip install 'holdfast[vsphere]'"
        raise HypervisorUnreachable(server=server, reason=reason) from error
    return Binding(vim, vmodl, SoapAdapter)


@contextmanager
def answering(binding: Binding, server: str) -> Iterator[None]:
    """What goes wrong in a call as :class:`VsphereRefused` (the server said so) or ``HypervisorUnreachable``."""
    try:
        yield
    except binding.vmodl.MethodFault as fault:
        raise refused(fault) from fault
    except (OSError, HTTPException, ExpatError) as error:
        reason = str(error) or type(error).__name__
        raise HypervisorUnreachable(server=server, reason=reason[:_MOST_TEXT]) from error


def refused(fault: Any) -> VsphereRefused:
    """A fault, raised or as the error of a task, as an exception of ours."""
    name = type(fault).__name__.rpartition(".")[2]
    words = str(getattr(fault, "msg", "") or getattr(fault, "localizedMessage", "") or "")
    told = " ".join(words.split())[:_MOST_TEXT]
    if name == "NoPermission":
        return VsphereRefused(name, f"the user lacks the privilege {str(getattr(fault, 'privilegeId', '?'))[:80]}")
    return VsphereRefused(name, f"{told} ({name})" if told and told != name else name)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:4] if part.isdecimal())
