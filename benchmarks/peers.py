"""restic and borg, run as their users run them: a repository made beforehand, then one command on the image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peer import PASSPHRASE, Peer, output_of


@dataclass(frozen=True)
class FilePeer(Peer):
    """A backup of files, for which an image is one of them.

    The command must read the whole image each time: an image of a running VM is never as old as it was. ``restore``
    is run in a folder that the image goes to; ``verify`` must read and decode all data.
    """

    name: str
    program: str
    init: Sequence[str]
    backup: Sequence[str]
    restore: Sequence[str]
    verify: Sequence[str]
    how_to_get: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str | None:
        if shutil.which(self.program) is None:
            return None
        told = output_of([self.program, "version" if self.program == "restic" else "--version"])
        return " ".join(told.split()[:2])

    def make_repository(self, home: Path) -> None:
        home.mkdir()
        self._run(self.init, home)

    def run(self, home: Path, image: Path) -> None:
        self._run([*self.backup, str(image)], home)

    def restore_to(self, home: Path, folder: Path) -> None:
        last = self._run(["list", "--last", "1", "--short"], home).strip() if self.program == "borg" else ""
        self._run([argument.replace("LAST", last) for argument in self.restore], home, folder)

    def check(self, home: Path) -> None:
        self._run(self.verify, home)

    def forget(self, home: Path, keep: int) -> None:
        """Keep the newest ``keep`` backups; frees nothing yet."""
        verb = "forget" if self.program == "restic" else "prune"
        self._run([verb, "--keep-last", str(keep)], home)

    def free(self, home: Path) -> None:
        """Give the space of what was forgotten back."""
        self._run(["prune"] if self.program == "restic" else ["compact"], home)

    def copy(self, origin: Path, home: Path) -> None:
        """Copy all backups of the repository in ``origin`` that the one in ``home`` has not; restic only."""
        password = origin / "password"
        password.write_text(PASSPHRASE)
        self._run(["copy", "--quiet", "--from-repo", f"{origin}/repo", "--from-password-file", str(password)], home)

    def _run(self, arguments: Sequence[str], home: Path, folder: Path | None = None) -> str:
        told = {name: value.format(home=home) for name, value in self.environment.items()}
        command = [self.program, *(argument.format(home=home) for argument in arguments)]
        return output_of(command, {**os.environ, **told}, folder)


_BORG = {
    "BORG_BASE_DIR": "{home}",
    "BORG_REPO": "{home}/repo",
    "BORG_PASSPHRASE": PASSPHRASE,
    "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
}
_BORG_CREATE = ("create", "--compression", "lz4", "--files-cache", "disabled")
_BORG_FIXED = (*_BORG_CREATE, "--chunker-params", "fixed,4194304")
_BORG_NAME = "::{{now:%s.%f}}"
_BORG_RESTORE = ("extract", "--sparse", "::LAST")
_BORG_VERIFY = ("check", "--verify-data")
_OPEN, _SEALED = ("init", "--encryption", "none"), ("init", "--encryption", "repokey-blake2")


def _borg(name: str, init: Sequence[str], create: Sequence[str]) -> FilePeer:
    create = (*create, _BORG_NAME)
    return FilePeer(name, "borg", init, create, _BORG_RESTORE, _BORG_VERIFY, "apt install borgbackup", _BORG)


FILE_PEERS = (
    FilePeer(
        name="restic",
        program="restic",
        init=("init", "--quiet"),
        backup=("backup", "--quiet", "--force"),
        restore=("restore", "latest", "--target", "."),
        verify=("check", "--read-data"),
        how_to_get="apt install restic",
        environment={
            "RESTIC_REPOSITORY": "{home}/repo",
            "RESTIC_CACHE_DIR": "{home}/cache",
            "RESTIC_PASSWORD": PASSPHRASE,
        },
    ),
    _borg("borg lz4, not encrypted", _OPEN, _BORG_CREATE),
    _borg("borg lz4, encrypted", _SEALED, _BORG_CREATE),
    _borg("borg lz4, not encrypted, blocks of 4 MiB", _OPEN, _BORG_FIXED),
)
