"""A hypervisor for tests of plugins: a server in memory over files in a directory, with faults on command."""

from .driver import (
    FakeDriver,
    FakeOptions,
    FakeTracker,
    holdfast_register_change_trackers,
    holdfast_register_hypervisors,
)
from .faults import Fault, Faults
from .server import FakeServer, ServerRefused

__all__ = [
    "FakeDriver",
    "FakeOptions",
    "FakeServer",
    "FakeTracker",
    "Fault",
    "Faults",
    "ServerRefused",
    "holdfast_register_change_trackers",
    "holdfast_register_hypervisors",
]
