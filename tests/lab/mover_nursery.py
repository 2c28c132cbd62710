"""The agent's template of movers, but that what it forks lives as ``lab.mover_child`` does."""

from __future__ import annotations

import os
import random
import socket
import ssl
import sys
from pathlib import Path

from holdfast_agent.mover.nursery import serve
from lab import mover_child

_TESTS = str(Path(__file__).parents[1])
TEMPLATE = (
    *(sys.executable, "-P", "-c"),
    f"import sys; sys.path.insert(0, {_TESTS!r}); from lab.mover_nursery import main; main()",
)
CHILD = (sys.executable, "-P", mover_child.__file__)


def main() -> None:
    """Random numbers are drawn first: what a fork inherited of their state would show in its own."""
    random.random()
    ssl.RAND_bytes(16)
    serve(socket.socket(fileno=0), _live)


def _live() -> None:
    try:
        mover_child.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)
