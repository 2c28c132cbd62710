"""Conformance suites for plugin authors: whoever passes them can be trusted with a backup.

A test file supplies a *lab*, which knows one real hypervisor from outside, and subclasses the suite; pytest does the
rest. Needs pytest. See docs/plugin-guide.md.
"""

import pytest

# Before they are imported: their failures then explain themselves.
pytest.register_assert_rewrite(f"{__name__}.hypervisor", f"{__name__}.changes")

from .changes import ChangeTrackerConformance, ChangeTrackerLab  # noqa: E402 (see above)
from .hypervisor import HypervisorConformance  # noqa: E402 (see above)
from .journal import MemoryJournal, Obligation  # noqa: E402 (see above)
from .lab import HypervisorLab  # noqa: E402 (see above)

__all__ = [
    "ChangeTrackerConformance",
    "ChangeTrackerLab",
    "HypervisorConformance",
    "HypervisorLab",
    "MemoryJournal",
    "Obligation",
]
