"""A restore point in one file: a small repository that is packed up, carried to another installation and unpacked."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

from lab.contents import assert_same
from lab.installation import Installation, installed

MIB = 1 << 20


def test_a_point_is_carried_in_one_file_to_another_installation(tmp_path: Path) -> None:
    """As docs/restore.md says it; nothing of the first installation is left but the file and its passphrase."""
    content = random.Random(4).randbytes(3 * MIB).ljust(8 * MIB, b"\0")
    file, passphrase = tmp_path / "web.tar", tmp_path / "carry.pass"
    with installed(tmp_path / "first") as first:
        (first.vms / "web.img").write_bytes(content)
        first.add_repository("main", encrypted=True)
        first.add_job("nightly", repository="main", include="*")
        first.run_job("nightly")
        first.add_repository("carry", encrypted=True)
        first.holdfast("repository", "copy", "main", "carry", "--vm", "web.img", "--latest", "1")
        pack(first, file)
        shutil.copy(first.home / "carry.pass", passphrase)
    shutil.rmtree(tmp_path / "first")
    with installed(tmp_path / "second") as second:
        subprocess.run(["tar", "-C", second.store, "-xf", file], check=True)
        place = ("--agent", "local", "--path", second.store / "carry", "--passphrase-file", passphrase)
        assert second.holdfast("repository", "add", "carry", *place)["points"] == 1
        second.holdfast("repository", "verify", "carry", "--level", "2")
        second.restore_disk("web.img", "latest", second.out / "web.img")
        assert_same((second.out / "web.img").read_bytes(), content)


def pack(house: Installation, file: Path) -> None:
    subprocess.run(["tar", "-C", house.store, "--exclude", "space-reserve", "-cf", file, "carry"], check=True)
