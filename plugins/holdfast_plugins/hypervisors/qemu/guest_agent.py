"""Where the guest agent of a VM is reached: the Unix socket behind its virtio-serial port."""

from __future__ import annotations

import re
from typing import Any

from .monitor import Monitor

_PORT = "org.qemu.guest_agent.0"
_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")
_SOCKET = re.compile(r"(?:disconnected:)?unix:(?P<path>/[^,]+)(?:,.*)?")


def agent_socket(monitor: Monitor) -> str | None:
    """Its path; None for a VM that was started without one, or with something else behind the port.

    Raises ``CommandRefused``.
    """
    chardevs = {each["label"]: each["filename"] for each in monitor.run("query-chardev")}
    for container in _CONTAINERS:
        for child in monitor.run("qom-list", {"path": container}):
            if child["type"] != "child<virtserialport>":
                continue
            port = f"{container}/{child['name']}"
            if _property(monitor, port, "name") == _PORT:
                found = _SOCKET.fullmatch(chardevs.get(_property(monitor, port, "chardev"), ""))
                return found["path"] if found else None
    return None


def _property(monitor: Monitor, path: str, name: str) -> Any:
    return monitor.run("qom-get", {"path": path, "property": name})
