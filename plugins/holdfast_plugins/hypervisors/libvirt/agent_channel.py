"""qemu-guest-agent through libvirt, which holds its socket and sees to it that answers belong to their questions."""

from __future__ import annotations

import json
import math
import re

from holdfast_agent.errors import GuestAgentSilent, HypervisorUnreachable
from holdfast_plugins.api import VmRef

from .binding import LibvirtRefused
from .connection import Connection

_REFUSED = re.compile(r"unable to execute QEMU agent command '[^']*': (.*)", re.DOTALL)


class LibvirtAgentChannel:
    """An ``AgentChannel``. The domain is looked up for each command, so that it outlives a lost connection."""

    def __init__(self, connection: Connection, vm: VmRef) -> None:
        self._connection = connection
        self._vm = vm

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        """As ``AgentChannel``. Before the answer libvirt may wait for the domain's lock, at most half a minute."""
        try:
            domain = self._connection.domain(self._vm)
            return domain.agent(command.decode(), max(1, math.ceil(timeout_s))).encode()
        except LibvirtRefused as error:
            refused = _REFUSED.search(str(error))
            if refused is None:
                raise GuestAgentSilent(vm=self._vm.name, reason=str(error)) from error
            return json.dumps({"error": {"class": "GenericError", "desc": refused[1]}}).encode()
        except HypervisorUnreachable as error:
            raise GuestAgentSilent(vm=self._vm.name, reason=str(error)) from error
