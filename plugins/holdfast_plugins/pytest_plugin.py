"""The testkit as a plugin of pytest: its fixtures.

pytest finds it by its entry point; nothing of Holdfast is imported until a test asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testkit.fake import FakeServer


@pytest.fixture
def fake_hypervisor(tmp_path: Path) -> Iterator[FakeServer]:
    """A :class:`~holdfast_plugins.testkit.fake.FakeServer` with one VM, ``web``, of two disks.

    A fault that was ordered and never happened fails the test.
    """
    from .testkit.fake import FakeServer

    directory = tmp_path / "fake-hypervisor"
    directory.mkdir()
    server = FakeServer(directory)
    server.add_vm("web", {"root": 3 * 1024 * 1024 + 512, "data": 1024 * 1024})
    yield server
    left = server.faults.left()
    if left:
        pytest.fail(f"faults were ordered and never happened: {', '.join(left)}")
