"""A real guest runs from a restore point as it lies in the repository, and outlives what serves its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.wire.specs import BlockTree, ExportDisk
from lab import guest as lab
from lab.exports import exported
from lab.movers import Site

pytestmark = pytest.mark.timeout(240)  # the first test of a fresh checkout builds the guest

TEXT = b"written by the guest" * 50_000


def test_a_guest_boots_from_a_point_and_writes_through_a_crash_of_its_server(tmp_path: Path) -> None:
    image = lab.build(lab.PLAIN)
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site")
    source = site.folder / "disks" / "disk.raw"
    lab.copy_disk(image.disk, lab.Disk(source))
    geometry = Geometry(source.stat().st_size)
    root = site.backup(f"file:{source}", geometry).proxy.root
    assert root is not None
    disks = (ExportDisk(name="root", tree=BlockTree(root, geometry)),)
    with exported(site, disks, writable=True) as first:
        disk = lab.Disk(first.socket, export="root")
        with lab.start(image, tmp_path, [disk], boot="kernel") as guest:
            guest.wait_up(120)
            guest.agent.write("/before", TEXT)
            guest.agent.shell("sync")
            first.mover.process.kill()
            with exported(site, disks, writable=True):
                guest.agent.write("/after", TEXT)
                guest.agent.shell("sync; echo 3 > /proc/sys/vm/drop_caches")
                for name in ("/before", "/after"):
                    assert hash(guest.agent.read(name)) == hash(TEXT)
                guest.kill()
    assert hash(source.read_bytes()) == hash(image.disk.read_bytes())
