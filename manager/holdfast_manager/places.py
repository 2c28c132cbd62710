"""Where the manager's configuration and data are: known before anything is loaded that could read them."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM_CONFIG = Path("/etc/holdfast/manager.toml")
SYSTEM_DATA = Path("/var/lib/holdfast")


def config_file(named: Path | None = None) -> Path | None:
    """``named`` (the option --config), else $HOLDFAST_CONFIG, else the usual places; None: all defaults hold.

    Only a file in a usual place is known to be there.
    """
    own = Path("~/.config/holdfast/manager.toml").expanduser()
    usual = (SYSTEM_CONFIG,) if os.geteuid() == 0 else (own, SYSTEM_CONFIG)
    return named or _from_environment("HOLDFAST_CONFIG") or next((place for place in usual if place.exists()), None)


def data_directory(configured: str = "") -> Path:
    """As ``configured`` in the file, else $HOLDFAST_HOME, else the user's or the system's usual place."""
    if configured:
        return Path(configured).expanduser()
    return _from_environment("HOLDFAST_HOME") or (
        SYSTEM_DATA if os.geteuid() == 0 else Path("~/.local/share/holdfast").expanduser()
    )


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value).expanduser() if value else None
