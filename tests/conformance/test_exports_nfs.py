"""Exports over NFS as QEMU sees them, whose client is libnfs."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast_agent.model.geometry import Geometry
from lab import repositories as lab
from lab.exports import content_of, run, store, trees_of
from lab.movers import Site
from lab.nfs_exports import nfs_exported
from lab.tools import require_tool

GEOMETRY = Geometry(24 * lab.BLOCK, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in range(0, 24, 3)}


def content(url: str, target: Path) -> bytes:
    run(require_tool("qemu-img", "qemu-utils"), "convert", "-f", "raw", "-O", "raw", url, target)
    return target.read_bytes()


def test_qemu_reads_every_byte_and_what_it_flushed_is_there_after_kill_9(tmp_path: Path) -> None:
    site = Site(tmp_path)
    disks = trees_of(store(site, BLOCKS, GEOMETRY))
    want = bytearray(content_of(BLOCKS, GEOMETRY))
    with nfs_exported(site, disks) as share:
        flat = share.urls[0].replace(".vmdk", "-flat.vmdk")
        assert (
            f'RW {GEOMETRY.size_bytes // 512} VMFS "root-flat.vmdk"' in content(share.urls[0], tmp_path / "d").decode()
        )
        assert (content(flat, tmp_path / "whole") == want) is True
        data, at = os.urandom(3 * lab.BLOCK + 1024), 2 * lab.BLOCK + 512
        (tmp_path / "data").write_bytes(data)
        run("qemu-io", "-f", "raw", "-c", f"write -s {tmp_path / 'data'} {at} {len(data)}", "-c", "flush", flat)
        want[at : at + len(data)] = data
        share.export.mover.process.kill()
        share.export.mover.process.wait()
    with nfs_exported(site, disks, address=share.address) as again:
        assert again.urls == share.urls
        assert (content(flat, tmp_path / "whole") == want) is True
