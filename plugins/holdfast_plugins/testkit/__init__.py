"""Conformance suites for plugin authors: whoever passes them can be trusted with a backup.

A test file supplies a *lab*, which knows one real hypervisor from outside, and subclasses the suite; pytest does the
rest. Needs pytest. See docs/plugin-guide.md.
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.hypervisor")  # before it is imported: its failures then explain themselves

from .hypervisor import HypervisorConformance  # noqa: E402 (see above)
from .journal import MemoryJournal, Obligation  # noqa: E402 (see above)
from .lab import HypervisorLab  # noqa: E402 (see above)

__all__ = ["HypervisorConformance", "HypervisorLab", "MemoryJournal", "Obligation"]
