"""What the first process of a User-mode Linux (:mod:`lab.uml`) needs. The root is the host's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MODULES = Path("/usr/lib/uml/modules") / os.uname().release
_INIT_MODULE = 313  # finit_module(2) on x86-64
_libc = ctypes.CDLL(None, use_errno=True)


def first_process(work: Callable[[list[str]], int]) -> None:
    """Called with ``RESULT ARGUMENT…`` on the command line: do the work with the arguments, and tell its status."""
    try:
        for kind, target in (("proc", "/proc"), ("sysfs", "/sys")):
            mount(kind, Path(target), kind)
        Path(sys.argv[1]).write_text(str(work(sys.argv[2:])))
    finally:
        os.sync()
        Path("/proc/sysrq-trigger").write_text("o")  # the first process must not end
        while True:
            os.wait()


def mount(source: str, target: Path, kind: str) -> None:
    if _libc.mount(source.encode(), str(target).encode(), kind.encode(), 0, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def load_modules(*wanted: str) -> None:
    """With all that they need, which modules.dep names in the order of unloading."""
    needs = dict(line.split(":", 1) for line in (MODULES / "modules.dep").read_text().splitlines())
    loaded: set[str] = set()
    for module in wanted:
        path = next(path for path in needs if Path(path).name == f"{module}.ko")
        for part in (*reversed(needs[path].split()), path):
            if part not in loaded:
                loaded.add(part)
                with (MODULES / part).open("rb") as file:
                    _libc.syscall(_INIT_MODULE, file.fileno(), b"", 0)


def run(*command: str) -> None:
    subprocess.run(command, check=True)
