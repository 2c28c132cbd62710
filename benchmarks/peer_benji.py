"""Benji, a backup of block devices in Python. It gets an environment of its own, for it needs old versions of much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peer import Peer, output_of

from holdfast_agent.model.geometry import Extent

_PLACE = Path("bench-work") / "environments" / "benji"
_PACKAGE = "benji==0.17.0"
# What it asks for, but ruamel.yaml, whose version there does not build with Python 3.10 and later.
_NEEDS = (
    "ruamel.yaml<0.17", "PrettyTable<1,>=0.7.2", "sqlalchemy<2,>=1.4.14", "setproctitle<2,>=1.1.8",
    "python-dateutil<3,>=2.6", "alembic<2", "psycopg2-binary<3,>=2.7.4", "argcomplete<2", "sparsebitfield<1",
    "cerberus<2,>=1.2", "pycryptodome<4", "pyparsing<3,>=2.3", "semantic-version<3,>=2.8.1", "dateparser<2,>=1.1.1",
    "structlog", "colorama<1", "diskcache", "attrs<22,>=21.4", "zstandard", "setuptools<81",
)  # fmt: skip
_CONFIG = """\
configurationVersion: '1'
databaseEngine: sqlite:///{home}/benji.sqlite
defaultStorage: main
blockSize: 4194304
ios:
  - name: file
    module: file
storages:
  - name: main
    storageId: 1
    module: file
    configuration:
      path: {home}/repo
      activeTransforms: [compressed, sealed]
transforms:
  - name: compressed
    module: zstd
    configuration:
      level: 1
  - name: sealed
    module: aes_256_gcm
    configuration:
      masterKey: {key}
"""
_KEY = "A" * 43 + "="  # protects nothing


class Benji(Peer):
    name = "benji zstd 1, encrypted"
    how_to_get = "benchmarks/compare_peers.py --get-benji"

    @property
    def version(self) -> str | None:
        return _PACKAGE.replace("==", " ") if self._program.exists() else None

    def get(self) -> None:
        """Make its environment from PyPI, if that can be done; else it stays away."""
        if self.version is None:
            pip = [_PLACE / "bin" / "pip", "--quiet", "--disable-pip-version-check", "install"]
            try:
                output_of([sys.executable, "-m", "venv", "--clear", _PLACE])
                output_of([*pip, *_NEEDS])
                output_of([*pip, "--no-deps", _PACKAGE])
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"benji cannot be installed: {error}", file=sys.stderr)

    @property
    def _program(self) -> Path:
        return _PLACE.absolute() / "bin" / "benji"

    def make_repository(self, home: Path) -> None:
        super().make_repository(home)
        (home / "benji.yaml").write_text(_CONFIG.format(home=home, key=_KEY))
        self._benji(home, "database-init")

    def run(self, home: Path, image: Path) -> None:
        self._benji(home, "backup", "--uid", f"v{self._last(home) + 1}", f"file:{image}", "disk")
        self._note(home)

    def run_told(self, home: Path, image: Path, changed: Sequence[Extent]) -> None:
        last = self._last(home)
        hints = [{"offset": extent.start, "length": extent.length, "exists": "true"} for extent in changed]
        (home / "hints").write_text(json.dumps(hints))
        told = ("--rbd-hints", home / "hints", "--base-version", f"v{last}")
        self._benji(home, "backup", "--uid", f"v{last + 1}", *told, f"file:{image}", "disk")
        self._note(home)

    def restore_to(self, home: Path, folder: Path) -> None:
        self._benji(home, "restore", "--sparse", f"v{self._last(home)}", f"file:{folder}/disk.raw")

    def check(self, home: Path) -> None:
        self._benji(home, "deep-scrub", f"v{self._last(home)}")

    def _benji(self, home: Path, *arguments: str | Path) -> None:
        command = [self._program, "-c", home / "benji.yaml", "--log-level", "ERROR", *arguments]
        output_of(command, {**os.environ, "HOME": str(home)})

    def _last(self, home: Path) -> int:
        return len(list(home.glob("made-*")))

    def _note(self, home: Path) -> None:
        (home / f"made-{self._last(home) + 1}").touch()
