"""The conformance suite of hypervisor drivers, one promise a test.

Its parts are suites themselves, for a driver that does one thing in several ways: the whole suite for one of them, and
for the others the parts that differ.
"""

from .inventory import InventorySuite
from .obligations import ObligationSuite
from .registration import RegistrationSuite
from .restores import RestoreSuite
from .snapshots import SnapshotSuite


class BackupConformance(RegistrationSuite, InventorySuite, SnapshotSuite, ObligationSuite):
    """For drivers that take no restores.

    Subclass it in a test file and give a fixture ``lab`` that makes a :class:`HypervisorLab`. Each test says in its
    name what a driver promises. Tests that a lab's tolerances exclude are skipped.
    """


class HypervisorConformance(BackupConformance, RestoreSuite):
    """For all others; else the same."""


__all__ = [
    "BackupConformance",
    "HypervisorConformance",
    "InventorySuite",
    "ObligationSuite",
    "RegistrationSuite",
    "RestoreSuite",
    "SnapshotSuite",
]
