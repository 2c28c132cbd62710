"""Being somebody without rights for a while, in a test that root runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .tools import missing

NOBODY = 65534


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Whatever is imported only inside may lie where nobody may read: import it before."""
    if os.geteuid() != 0:
        missing("becoming another user needs root")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def as_root() -> Iterator[None]:
    """Root again for a while, within :func:`as_nobody` or not."""
    before = os.geteuid()
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(before)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that everybody may pass through, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-open-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
