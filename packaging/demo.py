"""`make demo`: a real disk is backed up, changed, backed up again, restored twice and compared bit for bit.

All of it happens through the commands that users type, which are shown, with an agent of its own on loopback, below
`demo-work/`. That directory and every process started here are gone at the end, however it ends.

Environment: DISK=FILE backs up a copy of that image (raw; qcow2 where qemu-img is installed) instead of an ext4 file
system made of this machine's files. KEEP=1 leaves the directory. DEMO_WORK=DIR takes another,
which must not exist.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_disk import ToolMissing, change_disk, make_disk

MIB = 1 << 20
WORK = Path(os.environ.get("DEMO_WORK") or "demo-work")
CHANGED_PART = 0.03
BIN = Path(sys.executable).parent
PR_SET_CHILD_SUBREAPER = 36

AGENT = """\
name = "local"
state_dir = "{work}/agent"
log_level = "warning"
[control]
listen = "tcp://127.0.0.1:0"
[data]
listen_address = "127.0.0.1"
port_range = [0, 0]
[proxy]
paths = ["{work}"]
[repository]
paths = ["{work}"]
"""


class DemoFailed(Exception):
    """Something did not go as it must; the text says what."""


# --- showing ----------------------------------------------------------------------------------------------------


def paint(text: str, code: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{code}m{text}\033[0m"


def heading(text: str) -> None:
    print(f"\n{paint('──', '36')} {paint(text, '1')}", flush=True)


def say(text: str) -> None:
    print(f"   {text}", flush=True)


def mib(count: float) -> str:
    return f"{count / MIB:,.1f} MiB"


# --- the commands -----------------------------------------------------------------------------------------------


def run(program: str, *arguments: str, quiet: bool = False) -> None:
    """Run a command as a user does: shown, with its output on the terminal unless ``quiet``."""
    shown = shlex.join((program, *arguments)).replace(f"{WORK.resolve()}", f"{WORK}")
    print(f"   {paint('$', '32')} {paint(shown, '32')}", flush=True)
    output = subprocess.DEVNULL if quiet else None
    code = subprocess.run([BIN / program, *arguments], stdin=subprocess.DEVNULL, stdout=output, check=False).returncode
    if code:
        raise DemoFailed(f"`{shown}` ended with exit code {code}")


def holdfast(*arguments: str) -> None:
    run("holdfast", *arguments)


def ask(program: str, *arguments: str) -> Any:
    """A command's JSON document, not shown."""
    command = [BIN / program, *arguments, "--output", "json"]
    return json.loads(subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout)


def must_be_equal(one: Path, other: Path) -> None:
    if subprocess.run(["cmp", "--", one, other], check=False).returncode:
        raise DemoFailed(f"{other} differs from {one}")
    say(paint(f"{other} is {one}, bit for bit", "32"))


# --- processes --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def everything_ends() -> Iterator[None]:
    """Whatever is started below ends here: also what outlives its parent, for this process adopts it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_children(signal.SIGTERM, 10)
        end_children(signal.SIGKILL, 5)
        if os.environ.get("KEEP") == "1":
            say(f"kept: {WORK}")
        else:
            shutil.rmtree(WORK, ignore_errors=True)


def end_children(number: signal.Signals, patience_s: float) -> None:
    """Signal every child, adopted ones too, and reap until there is none or the time is over."""
    deadline = time.monotonic() + patience_s
    told: set[int] = set()
    while time.monotonic() < deadline:
        for pid in set(children()) - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            told.add(pid)
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
        except ChildProcessError:
            return


def children() -> list[int]:
    own = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]


def start_agent(config: Path) -> str:
    """Start the agent in the background; returns its endpoint once it listens."""
    print(f"   {paint('$', '32')} {paint(f'holdfast-agent run --config {config} &', '32')}", flush=True)
    with (WORK / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "holdfast-agent", "run", "--config", config], stdin=subprocess.DEVNULL, stderr=log
        )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        endpoint = ask("holdfast-agent", "show", "--config", str(config))["endpoint"]
        if endpoint:
            return str(endpoint).removeprefix("tcp://")
    raise DemoFailed(f"the agent did not start: {(WORK / 'agent.log').read_text()}")


# --- the story --------------------------------------------------------------------------------------------------


def main() -> None:
    os.chdir(Path(__file__).resolve().parent.parent)
    given = os.environ.get("DISK", "")
    if given and not Path(given).is_file():
        sys.exit(f"demo: DISK={given} is no file")
    if shutil.disk_usage(".").free < 4 << 30:
        sys.exit("demo: needs 4 GiB of free space here, and gives it back at the end")
    if not os.environ.get("DEMO_WORK"):
        shutil.rmtree(WORK, ignore_errors=True)  # what KEEP=1 left
    elif WORK.exists():
        sys.exit(f"demo: DEMO_WORK={WORK} exists; name a directory that can be made, and removed at the end")
    WORK.mkdir(mode=0o700)
    os.environ["HOLDFAST_HOME"] = str(WORK / "manager")
    os.environ.pop("HOLDFAST_CONFIG", None)
    began = time.monotonic()
    with everything_ends():
        try:
            tell(given)
        except (DemoFailed, ToolMissing, subprocess.CalledProcessError, OSError) as error:
            print(f"\n{paint('The demo failed', '31')}: {error}", file=sys.stderr)
            sys.exit(1)
        say(f"{time.monotonic() - began:.0f} s in all")


def tell(given: str) -> None:
    heading("1. A virtual machine with one disk")
    disk = WORK / "vms" / "web" / "disk.raw"
    disk.parent.mkdir(parents=True)
    say(make_disk(disk, given))

    heading("2. An agent with both roles, and a manager that know each other")
    enrol()

    heading("3. The first backup")
    holdfast("server", "add", "lab", "--plugin", "images", "--option", f"path={disk.parent.parent.resolve()}")
    passphrase = WORK / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text(f"{secrets.token_hex(16)}\n")
    place = ("--agent", "local", "--path", str((WORK / "repository").resolve()))
    holdfast("repository", "add", "main", *place, "--create", "--passphrase-file", str(passphrase))
    holdfast("job", "create", "nightly", "--server", "lab", "--include", "web", "--repository", "main")
    first = back_up(disk)

    heading(f"4. About {CHANGED_PART:.0%} of the disk changes, and the second backup")
    say(change_disk(disk, CHANGED_PART, made_here=not given))
    second = back_up(disk)

    heading("5. Both points are restored and compared")
    for backup in (first, second):
        restored = WORK / "restored" / f"{backup.kept.stem}.raw"
        restored.parent.mkdir(exist_ok=True)
        holdfast("restore", "disk", "--point", backup.sid[:12], "--to", str(restored.resolve()))
        must_be_equal(backup.kept, restored)

    heading("6. The log of the second session")
    holdfast("session", "show", str(second.session))
    summarise(first, second)


@dataclass(frozen=True)
class Backup:
    """What one backup did; ``kept`` is a copy of the disk as it was then. ``total``: the session's counters."""

    session: int
    sid: str
    kept: Path
    total: dict[str, Any]
    took_s: float


def enrol() -> None:
    config = WORK / "agent.toml"
    config.write_text(AGENT.format(work=WORK.resolve()))
    run("holdfast-agent", "init", "--config", str(config), quiet=True)
    run("holdfast", "init", quiet=True)
    manager_key = ask("holdfast", "init")["public_key"]
    run("holdfast-agent", "authorize", manager_key, "--name", "demo", "--config", str(config), quiet=True)
    endpoint = start_agent(config)
    agent_key = ask("holdfast-agent", "show", "--config", str(config))["public_key"]
    holdfast("agent", "add", "local", endpoint, agent_key)


def back_up(disk: Path) -> Backup:
    began = time.monotonic()
    holdfast("job", "run", "nightly")
    took_s = time.monotonic() - began
    session = ask("holdfast", "session", "list")["sessions"][0]["id"]
    report = ask("holdfast", "session", "show", str(session))
    kept = WORK / "kept" / f"as-backed-up-{session}.raw"
    kept.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", disk, kept], check=True)
    return Backup(session, report["points"][0]["sid"], kept, report["total"], took_s)


def summarise(first: Backup, second: Backup) -> None:
    heading("Summary")
    say(f"{'':<16}{'first backup':>16}{'second backup':>16}")
    for title, field in (
        ("read", "read_bytes"),
        ("sent", "sent_bytes"),
        ("on the wire", "transferred_bytes"),
        ("stored", "stored_bytes"),
    ):
        say(f"{title:<16}{mib(first.total[field]):>16}{mib(second.total[field]):>16}")
    say(f"{'time':<16}{first.took_s:>14.1f} s{second.took_s:>14.1f} s")
    say(f"The second backup sent {second.total['sent_bytes'] / max(1, first.total['sent_bytes']):.1%} of the first.")
    say("Both restore points are the disk as it was, bit for bit.")


if __name__ == "__main__":
    main()
