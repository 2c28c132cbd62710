"""Incrementals with change tracking by how much changed: time, bytes and metadata are in proportion to the change.

A mixed image is backed up in full; then 0.1, 1, 5 and 20 % of its data are overwritten in scattered runs of 256 KiB,
and the runs are told to the source as a change tracker tells them. Two movers on this machine, encrypted, lz4.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import images
import results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import HOLE
from lab.movers import Done, Site

WORK = Path("bench-work")
MIB = 1 << 20
PARTS = (0.001, 0.01, 0.05, 0.2)
RUN_BYTES = 256 << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=4096)
    size_mib: int = parser.parse_args().size_mib
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="changed-", dir=WORK) as name:
        site = Site(Path(name).resolve())
        image = site.folder / "disks" / "disk.raw"
        images.make_mixed_image(image, size_mib)
        geometry = Geometry(size_mib * MIB)
        full = site.backup(f"file:{image}", geometry)
        used = sum(end - start for start, end in images.data_extents(image))
        print("| changed | told | transfer | read | sent | stored | metadata of that, for each changed block |")
        print("|---|---|---|---|---|---|---|")
        print(_line("full", used, full, _metadata(site), 0))
        found = [_found("full", used, full)]
        root, before = full.repository.root, _metadata(site)
        for number, part in enumerate(PARTS):
            extents = overwrite(image, part, number)
            told = sum(extent.length for extent in extents)
            done = site.backup(
                f"file:{image}", geometry, ChangeMode.CBT, (root or HOLE, geometry), extents, audit=AuditRate()
            )
            root, after = done.repository.root, _metadata(site)
            blocks = len({extent.start // MIB for extent in extents})
            print(_line(f"{part:.1%}", told, done, after - before, blocks), flush=True)
            found.append(_found(f"{part:.1%}", told, done))
            before = after
        shutil.rmtree(site.folder / "disks")
    results.write("changed", {"size_mib": size_mib, "runs": found})


def overwrite(image: Path, part: float, seed: int) -> tuple[Extent, ...]:
    """Overwrite ``part`` of the data with pages that compress like a database's; the extents, ascending."""
    rng = random.Random(seed)
    runs = [at for start, end in images.data_extents(image) for at in range(start, end - RUN_BYTES, RUN_BYTES)]
    chosen = sorted(rng.sample(runs, max(1, round(len(runs) * part))))
    with image.open("r+b") as file:
        for at in chosen:
            file.seek(at)
            file.write((rng.randbytes(RUN_BYTES // 256) + bytes(256)) * (RUN_BYTES // (RUN_BYTES // 256 + 256)))
    return tuple(Extent(at, RUN_BYTES) for at in chosen)


def _metadata(site: Site) -> int:
    """Bytes of tree nodes and index segments."""
    folders = (site.folder / "repository" / "packs" / "m", site.folder / "repository" / "index")
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def _found(what: str, told: int, done: Done) -> dict[str, object]:
    stored_mib = done.stored_bytes / MIB
    return {"changed": what, "told_mib": told / MIB, "transfer_s": done.seconds, "stored_mib": stored_mib}


def _line(what: str, told: int, done: Done, metadata: int, blocks: int) -> str:
    counters = done.counters
    share = f"{metadata / blocks:,.0f} bytes" if blocks else ""
    return (
        f"| {what} | {told / MIB:,.1f} MiB | {done.seconds:.2f} s | {counters.read_bytes / MIB:,.0f} MiB "
        f"| {counters.sent_bytes / MIB:,.0f} MiB | {done.stored_bytes / MIB:,.1f} MiB | {share} |"
    )


if __name__ == "__main__":
    main()
