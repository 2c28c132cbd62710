"""What a benchmark found, as a file beside the table that it prints: ``bench-work/NAME.json``."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORK = Path("bench-work")


def write(name: str, found: Mapping[str, Any]) -> None:
    """Keep it for :mod:`draw`, with what it was found on. NaN becomes null."""
    WORK.mkdir(exist_ok=True)
    about = {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    document = json.dumps(_plain({**about, **found}), indent=1)
    (WORK / f"{name}.json").write_text(document + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if value == value else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
