"""What tests of instant recovery look at, whatever runs the VM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.exports import nbdsh
from lab.installation import Installation
from lab.processes import children


def listed(house: Installation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = house.holdfast("instant", "list")["instant"]
    return found


def left_over(house: Installation) -> list[Path]:
    """Folders of exports."""
    return list((house.home / "agent" / "exports").glob("*/*"))


def served(socket: str | Path, export: str, offset: int, length: int) -> bytes:
    """What the export of a VM's disk holds now."""
    told = nbdsh(f"print(h.pread({length}, {offset}).hex())", f"nbd+unix:///{export}?socket={socket}")
    return bytes.fromhex(told[0])


def exporting(house: Installation) -> int:
    """The process that serves."""
    assert house.agent is not None
    (exporter,) = children(house.agent.pid, "holdfast_agent.export")
    return exporter
