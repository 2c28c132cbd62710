"""Programs of the operating system that tests need."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require_tool(name: str, package: str) -> str:
    """The path of the program ``name``. Where it is missing the test is skipped with how to get it.

    In continuous integration (``CI=true``) it must be there: a test that is always skipped proves nothing.
    """
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed; Debian and Ubuntu: apt install {package}")
    return path


def missing(reason: str) -> NoReturn:
    """Skip the test because something of the machine is missing; fail in continuous integration."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
