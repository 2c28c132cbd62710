"""Answers that come in parts, from what works in a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import anyio
from starlette.concurrency import run_in_threadpool


async def streamed(parts: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    """``parts``, each made in a thread when the one before has been taken; closed when the browser goes away, too."""
    try:
        while (part := await run_in_threadpool(next, parts, None)) is not None:
            yield part
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(parts.close)
