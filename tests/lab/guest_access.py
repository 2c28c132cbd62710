"""The ways into a guest that tests hand to guest processors in the place of a session's."""

from __future__ import annotations

from pathlib import Path

from holdfast_agent.errors import GuestAgentSilent, GuestProcessingFailed
from holdfast_plugins.api import AgentChannel, InGuest
from holdfast_plugins.guest.agent_socket import AgentSocket


class NoAccess:
    """What a hypervisor offers that has no channel to guest agents."""

    def agent(self) -> AgentChannel:
        raise GuestAgentSilent(vm="web", reason="there is none")

    def programs(self) -> InGuest:
        raise GuestProcessingFailed(vm="web", phase="programs", reason="there are none")


class SocketAccess(NoAccess):
    """What a hypervisor plugin offers that knows the agent's socket."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)

    def agent(self) -> AgentChannel:
        return AgentSocket(self._path, "db")
