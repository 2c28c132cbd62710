"""A fresh Debian: bootstrapped once and kept; whatever is done in it lies in memory above, and is thrown away.

Either a program runs in it alone, or its systemd is started first, as on a host.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from .tools import missing, require_tool

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".lab-cache"
SUITE = "bookworm"
BOOTSTRAP_TIMEOUT_S = 900.0
_INCLUDED = ("systemd", "dbus", "python3")
_SHARED = "/shared"


def fresh_debian() -> Path:
    """The directory of the smallest Debian that has systemd and Python. Takes one and a half minutes the first time."""
    if os.geteuid() != 0:
        missing("only root can bootstrap a Debian")
    require_tool("debootstrap", "debootstrap")
    require_tool("systemd-nspawn", "systemd-container")
    CACHE.mkdir(exist_ok=True)
    tree = CACHE / f"{SUITE}-{'-'.join(_INCLUDED)}"
    with (CACHE / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            _bootstrap(tree)
    return tree


def _bootstrap(tree: Path) -> None:
    half = tree.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_INCLUDED)}", SUITE, str(half), _mirror()]
    subprocess.run(command, check=True, timeout=BOOTSTRAP_TIMEOUT_S, stdout=subprocess.DEVNULL)
    half.rename(tree)


def _mirror() -> str:
    """From where this machine's own packages come."""
    told = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}", "Created-By: Packages"]
    return subprocess.run(told, check=True, capture_output=True, text=True).stdout.split()[0]


def run_in_debian(shared: Path, script: str, timeout_s: float, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root in a fresh Debian; ``shared`` is its /shared. ``options``: of systemd-nspawn."""
    return _run(shared, script, timeout_s, (*options, "--as-pid2", "--console=pipe"), (f"{_SHARED}/steps.sh",))


def run_in_booted_debian(shared: Path, script: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """The same when its systemd has started it, in a network of its own; what it prints is in ``shared/told``."""
    begin = f"exec >{_SHARED}/told 2>&1\n"
    system = ("--boot", f"systemd.run={_SHARED}/steps.sh")
    on_end = ("systemd.run_success_action=exit", "systemd.run_failure_action=exit")
    done = _run(shared, begin + script, timeout_s, ("--private-network",), (*system, *on_end))
    done.stdout = (shared / "told").read_text() if (shared / "told").exists() else done.stdout
    return done


def _run(
    shared: Path, script: str, timeout_s: float, options: tuple[str, ...], command: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    (shared / "steps.sh").write_text(f"#!/bin/sh\nset -eu\n{script}")
    (shared / "steps.sh").chmod(0o755)
    # It ends its container when it is asked to end; if it were killed, the container would go on.
    line = (
        "timeout", "--signal=TERM", "--kill-after=60", str(timeout_s),
        "systemd-nspawn", "--quiet", f"--directory={fresh_debian()}", "--volatile=overlay", "--register=no",
        "--keep-unit", f"--machine=holdfast-{os.getpid()}", f"--bind={shared}:{_SHARED}", *options, *command,
    )  # fmt: skip
    return subprocess.run(
        line,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s + 90,
        check=False,
    )
