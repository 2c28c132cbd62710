"""Find and read the agent's configuration file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from holdfast_agent.model.strict import convert, read_toml

from .settings import AgentSettings

ENVIRONMENT_NAME = "HOLDFAST_AGENT_CONFIG"
DEFAULT_FILE = Path("/etc/holdfast/agent.toml")


def find_config(given: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The file to use: ``given`` (--config), else $HOLDFAST_AGENT_CONFIG, else /etc/holdfast/agent.toml."""
    if given is not None:
        return given.absolute()
    named = environment.get(ENVIRONMENT_NAME)
    return Path(named).absolute() if named else DEFAULT_FILE


def load_config(path: Path) -> AgentSettings:
    """Read the file. Raises a :class:`ConfigError` that names file, key and, for an unknown key, the nearest one."""
    table = read_toml(path, advice="`holdfast-agent init` writes a commented one")
    return convert(table, AgentSettings, str(path))
