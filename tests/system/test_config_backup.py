"""A lost manager: its configuration comes back from one file, and the next job goes on where the last one ended."""

from __future__ import annotations

import random
from pathlib import Path

from lab.contents import assert_same
from lab.installation import installed

MIB = 1 << 20


def test_a_restored_manager_goes_on_where_the_lost_one_ended(tmp_path: Path) -> None:
    with installed(tmp_path) as house:
        disk = house.vms / "vm" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(random.Random(1).randbytes(4 * MIB))
        house.add_repository("main", encrypted=True)
        house.add_job("job", repository="main", include="vm")
        house.run_job("job")
        passphrase = tmp_path / "main.pass"
        safe = tmp_path / "holdfast.backup"

        house.holdfast("config", "backup", safe, "--passphrase-file", passphrase)
        house.holdfast("config", "backup", safe, "--passphrase-file", passphrase, expect=2)
        house.holdfast("config", "restore", safe, "--passphrase-file", passphrase, expect=2)
        (tmp_path / "manager").rename(tmp_path / "lost")
        house.holdfast("job", "list", expect=10)

        wrong = tmp_path / "wrong.pass"
        wrong.touch(0o600)
        wrong.write_text("not the passphrase\n")
        house.holdfast("config", "restore", safe, "--passphrase-file", wrong, expect=12)
        assert house.holdfast("config", "restore", safe, "--passphrase-file", passphrase)["jobs"] == 1

        disk.write_bytes(disk.read_bytes()[: 3 * MIB] + random.Random(2).randbytes(MIB))
        report = house.run_job("job")
        assert [each["mode"] for each in report["disks"]] == ["digest"]
        assert report["total"]["sent_bytes"] == MIB
        house.restore_disk("vm", "latest", house.out / "again.raw")
        assert_same((house.out / "again.raw").read_bytes(), disk.read_bytes())
        assert len(house.points("vm")) == 2
