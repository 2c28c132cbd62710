"""A fresh virtual environment that sees what is installed here, so that a distribution can be installed for real."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from pathlib import Path


class FreshVenv:
    """Nothing is fetched: what a distribution needs must be installed beside the tests."""

    def __init__(self, place: Path) -> None:
        venv.create(place, with_pip=False, symlinks=True)
        self.python = place / "bin" / "python"
        packages = next(place.glob("lib/python*/site-packages"))
        beside = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
        # As a site directory, so that editable installations beside it are found, too.
        (packages / "beside.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in beside))

    def install(self, project: Path) -> None:
        """Build the wheel of ``project`` and install it."""
        options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
        self.run("-m", "pip", "install", *options, str(project))

    def run(self, *arguments: str, cwd: Path | None = None, timeout_s: float = 100) -> str:
        """What ``python ARGUMENTS`` prints; it must succeed."""
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        done = subprocess.run(
            [self.python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def holdfast(self, *arguments: str) -> str:
        return self.run("-c", "from holdfast_manager.cli.main import main; main()", *arguments)
