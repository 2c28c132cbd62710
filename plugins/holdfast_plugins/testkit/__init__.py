"""Conformance suites for plugin authors: whoever passes them can be trusted with a backup.

A test file supplies a *lab*, which knows one real hypervisor from outside, and subclasses the suite; pytest does the
rest. Needs pytest. See docs/plugin-guide.md.
"""

import pytest

# Before they are imported: their failures then explain themselves.
pytest.register_assert_rewrite(
    f"{__name__}.hypervisor", f"{__name__}.changes", f"{__name__}.guest", f"{__name__}.notifier"
)

from . import fake  # noqa: E402 (see above)
from .changes import ChangeTrackerConformance, ChangeTrackerLab  # noqa: E402 (see above)
from .fake import FakeDriver, FakeServer, FakeTracker, Fault, Faults, ServerRefused  # noqa: E402 (see above)
from .guest import GuestLab, GuestProcessorConformance, NoAccess  # noqa: E402 (see above)
from .hypervisor import (  # noqa: E402 (see above)
    BackupConformance,
    HypervisorConformance,
    InventorySuite,
    ObligationSuite,
    RegistrationSuite,
    RestoreSuite,
    SnapshotSuite,
)
from .journal import MemoryJournal, MortalJournal, Obligation, SuddenDeath  # noqa: E402 (see above)
from .lab import HypervisorLab  # noqa: E402 (see above)
from .notifier import NotifierConformance, NotifierLab  # noqa: E402 (see above)

__all__ = [
    "BackupConformance",
    "ChangeTrackerConformance",
    "ChangeTrackerLab",
    "FakeDriver",
    "FakeServer",
    "FakeTracker",
    "Fault",
    "Faults",
    "GuestLab",
    "GuestProcessorConformance",
    "HypervisorConformance",
    "HypervisorLab",
    "InventorySuite",
    "MemoryJournal",
    "MortalJournal",
    "NoAccess",
    "NotifierConformance",
    "NotifierLab",
    "Obligation",
    "ObligationSuite",
    "RegistrationSuite",
    "RestoreSuite",
    "ServerRefused",
    "SnapshotSuite",
    "SuddenDeath",
    "fake",
]
