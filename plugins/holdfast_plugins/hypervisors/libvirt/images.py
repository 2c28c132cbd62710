"""Image files on this machine: what QEMU's tools tell of them, and making them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

_TOOL_TIMEOUT_S = 30.0


class ToolFailed(Exception):
    """A program of QEMU's could not do its part. The text is its own."""


def describe(path: str | Path, image_format: str = "qcow2") -> dict[str, Any]:
    """What ``qemu-img info`` says of an image, which others may have open. Raises :class:`ToolFailed`."""
    said = run_tool(["qemu-img", "info", "--force-share", "--output=json", "-f", image_format, str(path)])
    try:
        told = json.loads(said)
    except ValueError as error:
        raise ToolFailed(f"qemu-img: {error}") from error
    return dict(told)


def bitmaps_in(path: str | Path) -> list[str]:
    """The dirty bitmaps stored in a qcow2 image, as its header lists them."""
    data = describe(path).get("format-specific", {}).get("data", {})
    return [str(bitmap["name"]) for bitmap in data.get("bitmaps", ())]


def chain_of(path: str | Path) -> list[Path]:
    """The images under one, which may be of any format. Raises :class:`ToolFailed`."""
    said = run_tool(["qemu-img", "info", "--force-share", "--output=json", "--backing-chain", str(path)])
    try:
        return [Path(image["filename"]) for image in json.loads(said)[1:]]
    except (ValueError, KeyError) as error:
        raise ToolFailed(f"qemu-img: {error}") from error


def run_tool(command: list[str], timeout_s: float = _TOOL_TIMEOUT_S) -> bytes:
    """Run one of QEMU's programs, found on the PATH. Raises :class:`ToolFailed`."""
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_s, check=True).stdout
    except FileNotFoundError as error:
        raise ToolFailed(f"{command[0]} is not installed here (Debian and Ubuntu: apt install qemu-utils)") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[:500]
        raise ToolFailed(f"{command[0]}: {said or error}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolFailed(f"{command[0]}: {error}") from error
