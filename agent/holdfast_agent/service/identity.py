"""Who this agent is to the repositories that it serves."""

from __future__ import annotations

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.model.hosts import RepositoryHost


def identity(settings: AgentSettings) -> RepositoryHost:
    """By its key, which no other agent has; hosts made from one image may share everything else.

    Raises as :meth:`KeyPair.load`.
    """
    return RepositoryHost(key=KeyPair.load(settings.secret_key_file).public, name=settings.agent_name)
