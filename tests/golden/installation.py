"""`make golden NAME=VERSION`: an installation as this version leaves it, for those that come later to upgrade.

Run once for each release, before its tag, and never again for a name that is there: it stands for what people have.
``PYTHONPATH=tests python tests/golden/installation.py NAME [BIN]``: ``BIN`` is where another version's programs are.

A manager and an agent go through a short life by commands alone: keys, two repositories of which one is encrypted, a
job with a schedule and one that copies, traffic rules, a user and his token, backups of two VMs before and after a
change, a protected point, a verification, and a session that is killed while it waits for its agent. What a version
does not know is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lab.golden_installation import AGENT, JOB, PASSPHRASE, REPOSITORIES, TOKEN, Expected, content_of, store

_VMS = {"db": ("data.raw", "disk.raw"), "web": ("disk.raw",)}
_AGENT_CONFIG = """\
name = "{name}"
state_dir = "{home}/agent"
[control]
listen = "tcp://127.0.0.1:{port}"
[data]
listen_address = "127.0.0.1"
port_range = [0, 0]
[proxy]
paths = ["{home}"]
slots = 4
[repository]
paths = ["{home}"]
slots = 4
"""
_MANAGER_CONFIG = """\
log_level = "info"
[timing]
lease_ttl = 5
heartbeat = 0.5
poll = 0.1
[database]
url = ""
"""


class Life:
    """What is done, by the programs in ``programs``, below ``home``."""

    def __init__(self, home: Path, programs: Path) -> None:
        self._home = home
        self._programs = programs
        self._environment = {
            **os.environ, "HOLDFAST_HOME": str(home / "manager"), "HOLDFAST_CONFIG": str(home / "manager.toml"),
        }  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.restored: dict[str, dict[str, str]] = {}
        (home / "agent.toml").write_text(_AGENT_CONFIG.format(name=AGENT, home=home, port=self.port))
        (home / "manager.toml").write_text(_MANAGER_CONFIG)
        (home / "vms").mkdir()

    def live(self) -> None:
        agent = self._set_up()
        try:
            self._work()
        finally:
            agent.terminate()
            agent.wait(60)
        self._die()

    def _set_up(self) -> subprocess.Popen[bytes]:
        self._run("holdfast-agent", "init", "--config", self._home / "agent.toml")
        shown = self._run("holdfast-agent", "show", "--config", self._home / "agent.toml", "--output", "json")
        manager = json.loads(self._run("holdfast", "init", "--output", "json"))["public_key"]
        self._run("holdfast-agent", "authorize", manager, "--config", self._home / "agent.toml", "--name", "manager")
        command = [self._programs / "holdfast-agent", "run", "--config", self._home / "agent.toml"]
        agent = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)
        while not (self._home / "agent" / "endpoint").exists():
            assert agent.poll() is None, "the agent has ended"
            time.sleep(0.05)
        self._holdfast("agent", "add", AGENT, f"127.0.0.1:{self.port}", json.loads(shown)["public_key"])
        self._holdfast("server", "add", "lab", "--plugin", "images", "--option", f"path={self._home}/vms")
        passphrase = self._home / "passphrase"
        passphrase.touch(0o600)
        passphrase.write_text(f"{PASSPHRASE}\n")
        for name, sealed in REPOSITORIES.items():
            keys = ("--passphrase-file", passphrase) if sealed else ("--no-encryption",)
            self._holdfast("repository", "add", name, "--agent", AGENT, "--path", self._home / name, "--create", *keys)
        return agent

    def _work(self) -> None:
        sealed, plain = REPOSITORIES
        job = ("job", "create", JOB, "--server", "lab", "--include", "*", "--repository", sealed)
        self._holdfast(*job, "--schedule", "mon-fri 22:00")
        self._holdfast("network", "rule", "add", "wan", "--target", "10.8.0.0/16", "--bandwidth", "5 MiB")
        for round_number in (1, 2):
            self._write_disks(round_number)
            self._holdfast("job", "run", JOB)
            for point in self._holdfast("point", "list")["points"]:
                disks = {disk: f"{point['vm_name']}/{disk}" for disk in _VMS[point["vm_name"]]}
                known = {name: content_of(where, round_number)[1] for name, where in disks.items()}
                self.restored.setdefault(point["sid"], known)
        self._holdfast("protect", next(iter(self.restored)))
        self._holdfast("repository", "verify", sealed, "--level", "2")
        if self._try("job", "create", "offsite", "--copy-from", sealed, "--repository", plain):
            self._holdfast("job", "run", "offsite")
        else:
            self._holdfast("repository", "copy", sealed, plain)
        if self._try("user", "add", "alice", "--role", "operator"):
            (self._home / TOKEN).write_text(self._holdfast("user", "token", "alice")["token"])

    def _write_disks(self, round_number: int) -> None:
        for vm, disks in _VMS.items():
            (self._home / "vms" / vm).mkdir(exist_ok=True)
            for disk in disks:
                (self._home / "vms" / vm / disk).write_bytes(content_of(f"{vm}/{disk}", round_number)[0])

    def _die(self) -> None:
        """A session whose process is killed while it waits for its agent, which has gone."""
        command = [self._programs / "holdfast", "job", "run", JOB]
        waiting = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.closing(sqlite3.connect(self._home / "manager" / "catalog.db", timeout=30)) as catalog:
            query = "SELECT process FROM sessions WHERE state NOT IN ('ended', 'starting')"
            while not (found := catalog.execute(query).fetchone()):
                assert waiting.poll() is None, "the session has ended"
                time.sleep(0.02)
        waiting.kill()  # it would write down that the session has died
        waiting.wait(60)
        os.kill(json.loads(found[0])["pid"], signal.SIGKILL)

    def _holdfast(self, *arguments: str | Path) -> Any:
        return json.loads(self._run("holdfast", *arguments, "--output", "json") or "null")

    def _try(self, *arguments: str | Path) -> bool:
        try:
            self._holdfast(*arguments)
        except subprocess.CalledProcessError as error:
            if error.returncode == 2:  # this version does not know it
                return False
            raise
        return True

    def _run(self, program: str, *arguments: str | Path) -> str:
        command = [self._programs / program, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
        return done.stdout


def main(name: str, programs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        home = Path(folder).resolve()
        life = Life(home, programs)
        life.live()
        print(store(name, home, life.port, Expected(life.restored)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path(sys.executable).parent)
