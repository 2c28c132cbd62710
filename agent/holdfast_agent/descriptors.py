"""Reads and writes at a place of a file that are whole: the kernel may give or take a part, as where a disk is full."""

from __future__ import annotations

import os


def write_at(fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
    """All of ``data``. Raises OSError, when a part may be written."""
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def read_at(fd: int, offset: int, into: memoryview) -> int:
    """Fill ``into``; how many bytes, which are fewer only where the file ends before. Raises OSError."""
    done = 0
    while done < len(into) and (more := os.preadv(fd, [into[done:]], offset + done)):
        done += more
    return done
