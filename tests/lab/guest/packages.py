"""Debian packages unpacked side by side in a cache, without installing any of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.tools import missing, require_tool

_LEFT_OUT = ("gconv", "doc", "man", "locale", "lintian", "bash-completion", "systemd", "bitcode", "help", "test*")
"""Folders and files of packages that no guest needs."""


class Packages:
    """Debian packages of this machine's release, or of another. ``cache``: holds one unpacked tree for each package."""

    def __init__(self, cache: Path, release: str = "") -> None:
        """``release``: such as ``sid``, from where this machine's come from; its lists are fetched at once."""
        self._cache = cache
        self._options = ("-o", "APT::Sandbox::User=root", *(_other_release(cache, release) if release else ()))

    def unpacked(self, name: str) -> Path:
        """The tree of the package ``name``, fetched when it is not there yet."""
        self.fetch([name])
        return self._cache / name

    def install(self, names: Sequence[str], root: Path) -> None:
        """Copy the packages' files into ``root``, where ``/bin``, ``/sbin`` and ``/lib`` are links into ``/usr``."""
        self.fetch(names)
        for name in names:
            ignore = shutil.ignore_patterns(*_LEFT_OUT)
            shutil.copytree(self._cache / name, root, symlinks=True, ignore=ignore, dirs_exist_ok=True)

    def fetch(self, names: Iterable[str]) -> None:
        """Have the trees of all of ``names``, with one call of apt for those that are not there yet."""
        wanted = [name for name in names if not (self._cache / name).exists()]
        if not wanted:
            return
        apt, dpkg = require_tool("apt-get", "apt"), require_tool("dpkg-deb", "dpkg")
        half = self._cache / f".{os.getpid()}"
        half.mkdir(parents=True)
        try:
            command = [apt, "-qq", *self._options, "download", *wanted]
            done = subprocess.run(command, cwd=half, check=False, capture_output=True, text=True, timeout=300)
            if done.returncode:
                missing(f"Debian packages could not be fetched (apt-get update?): {done.stderr.strip()}")
            for archive in half.glob("*.deb"):
                tree = half / archive.name.partition("_")[0]
                subprocess.run([dpkg, "-x", archive, tree], check=True)
                tree.rename(self._cache / tree.name)
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def with_libraries(self, *names: str) -> list[str]:
        """``names``, and all library packages that they need, found by what packages declare."""
        needs = self.dependencies(*names)
        found = list(names)
        for name in found:  # grows meanwhile
            found += [need for need in dict.fromkeys(needs.get(name, ())) if _is_library(need) and need not in found]
        return found

    def dependencies(self, *names: str) -> dict[str, list[str]]:
        """What ``names``, and all that they need, declare to need: the first of each choice, no virtual packages."""
        apt = require_tool("apt-cache", "apt")
        kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        left_out = [f"--no-{kind}" for kind in kinds]
        command = [apt, *self._options, "depends", "--recurse", *left_out, *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            missing(f"apt does not know the packages {', '.join(names)} (apt-get update?): {done.stderr.strip()}")
        needs: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            if not line.startswith(" "):
                of = needs.setdefault(line, [])
            elif "Depends: " in line and not line.endswith(">"):
                of.append(line.rpartition(" ")[2])
        return needs


def _other_release(folder: Path, release: str) -> list[str]:
    """Options by which apt looks at another release alone, with its lists in ``folder``."""
    apt = require_tool("apt-get", "apt")
    known = subprocess.run([apt, "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"], capture_output=True, text=True)
    places = [line.removeprefix("Debian ") for line in known.stdout.splitlines() if line.startswith("Debian ")]
    if known.returncode or not places:
        missing(f"apt knows no repository of Debian (apt-get update?): {known.stderr.strip()}")
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb {places[0]} {release} main\n")
    settings = {"Dir::Etc::SourceList": folder / "sources.list", "Dir::Etc::SourceParts": "-", "Dir::Cache": folder}
    settings |= {"Dir::State::Lists": folder / "lists", "APT::Sandbox::User": "root"}
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    done = subprocess.run([apt, "-qq", *options, "update"], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        missing(f"the lists of Debian's {release} could not be fetched: {done.stderr.strip()}")
    return options


def _is_library(name: str) -> bool:
    """LLVM only compiles a database's expressions, which takes longer than all that a test asks."""
    return (name.startswith("lib") and not name.startswith(("libllvm", "libperl"))) or name == "zlib1g"
