"""The Debian packages of this work tree, and the same of a later version, to upgrade to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .tools import require_tool

ROOT = Path(__file__).parents[2]


def built_packages(dist: Path) -> Path:
    """Fill ``dist`` with both packages (``*.deb``) and beside each a later version (``*.deb.new``)."""
    require_tool("dpkg-deb", "dpkg")
    environment = {**os.environ, "DIST": str(dist), "PACKAGE_COMPRESSION": "none", "TMPDIR": str(dist.parent)}
    subprocess.run([sys.executable, ROOT / "packaging" / "packages.py"], env=environment, check=True, timeout=300)
    for package in dist.glob("*.deb"):
        tree = dist / "tree"
        subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
        control = tree / "DEBIAN" / "control"
        control.write_text(control.read_text().replace("Version: ", "Version: 9."))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, f"{package}.new"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        shutil.rmtree(tree)
    return dist
