"""Real counterparts that the suites of this directory need."""

from __future__ import annotations

import pytest

from lab.tools import require_tool


@pytest.fixture
def qemu_nbd() -> str:
    return require_tool("qemu-nbd", "qemu-utils")


@pytest.fixture
def nbdkit_program() -> str:
    return require_tool("nbdkit", "nbdkit")
