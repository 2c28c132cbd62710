"""A tiny real guest: built from Debian's packages without root, run by QEMU without KVM, resumed within a second.

The usual way is one saved guest for a module and a fresh copy for each test::

    from lab.guest import PLAIN, Guest, saved

    with saved(PLAIN).resume(tmp_path, "qcow2") as guest:
        guest.agent.shell("echo hello > /hello")
        guest.monitor.run("query-block")
"""

from __future__ import annotations

from .flavours import DATABASES, MYSQL, PLAIN, POSTGRESQL, Flavour
from .image import Image, build, make_ext4
from .machine import Bus, Disk, Format, Guest, Hardware, start
from .monitors import Agent, Monitor, Refused
from .saved import Saved, copy_disk, saved

__all__ = [
    "DATABASES",
    "MYSQL",
    "PLAIN",
    "POSTGRESQL",
    "Agent",
    "Bus",
    "Disk",
    "Flavour",
    "Format",
    "Guest",
    "Hardware",
    "Image",
    "Monitor",
    "Refused",
    "Saved",
    "build",
    "copy_disk",
    "make_ext4",
    "saved",
    "start",
]
