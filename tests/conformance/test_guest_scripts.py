"""The guest processor `scripts` passes the suite: a lock file stands for a guest that is held."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Hashable
from pathlib import Path

import pytest

from holdfast_plugins.api import GuestProcessor, VmInfo, VmRef
from holdfast_plugins.guest.scripts import ScriptsOptions, ScriptsProcessor
from holdfast_plugins.testkit import GuestLab, GuestProcessorConformance

SESSION = """
import sys
from holdfast_plugins.api import VmInfo, VmRef
from holdfast_plugins.guest.scripts import ScriptsOptions, ScriptsProcessor
options = ScriptsOptions(pre_freeze=sys.argv[1], post_thaw=sys.argv[2])
ScriptsProcessor(options, {}).freeze(VmInfo(VmRef("web", "web"), ()), None, 600)
print("frozen", flush=True)
sys.stdin.read()
"""


class ScriptsLab(GuestLab):
    kills_sessions = True
    vm = VmInfo(VmRef("web", "web"), ())

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held = directory / "held"
        self._freeze = self._script("freeze", f"touch {self._held}")
        self._thaw = self._script("thaw", f"rm -f {self._held}")

    def processor(self) -> GuestProcessor:
        return ScriptsProcessor(ScriptsOptions(pre_freeze=self._freeze, post_thaw=self._thaw), {})

    def broken_processor(self) -> GuestProcessor:
        broken = self._script("broken", f"touch {self._held}; exit 3")
        return ScriptsProcessor(ScriptsOptions(pre_freeze=broken, post_thaw=self._thaw), {})

    def frozen(self) -> bool:
        return self._held.exists()

    def freeze_and_die(self) -> None:
        command = [sys.executable, "-c", SESSION, self._freeze, self._thaw]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
            assert session.stdout is not None
            assert session.stdout.readline() == b"frozen\n"
            assert self.frozen()
            session.kill()

    def traces(self) -> Hashable:
        guards = [
            process.name
            for process in Path("/proc").iterdir()
            if process.name.isdecimal() and self._is_ours(process / "cmdline")
        ]
        return frozenset(guards), self._held.exists()

    def _is_ours(self, command_line: Path) -> bool:
        try:
            return str(self._directory).encode() in command_line.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _script(self, name: str, does: str) -> str:
        path = self._directory / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o700)
        return str(path)


class TestScripts(GuestProcessorConformance):
    @pytest.fixture
    def lab(self, tmp_path: Path) -> GuestLab:
        return ScriptsLab(tmp_path)
