"""Copies by three real movers: a reader at one repository, a target at another, and between them who has both keys."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from holdfast_agent.errors import ConnectionLost, OriginDamaged
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import HOLE, BlockId
from holdfast_agent.repository.quarantine import Quarantine, put_records_aside
from holdfast_agent.sealing.keys import MasterKey, RepositoryKeys
from holdfast_agent.wire.movers import Begin
from holdfast_agent.wire.specs import BackupOrder, BlockTree, OriginDisk
from lab import repositories as lab
from lab.contents import assert_same
from lab.movers import Site

GEOMETRY = Geometry(70_000 * lab.BLOCK + 512, lab.LOG2)
"""Three levels of nodes, and a last block that is cut."""
LAST = lab.block("last")[:512].ljust(lab.BLOCK, b"\0")
FULL = {number: lab.block(number) for number in (*range(60), 300, 65_536)} | {61: lab.block(0), 70_000: LAST}


@pytest.fixture
def origin(tmp_path: Path) -> Site:
    (tmp_path / "origin").mkdir()
    return Site(tmp_path / "origin")


@pytest.fixture
def here(tmp_path: Path) -> Site:
    """Another repository under another key: its ids are not those of the origin."""
    (tmp_path / "here").mkdir()
    site = Site(tmp_path / "here")
    site.keys = RepositoryKeys.derive(MasterKey(b"n" * 32), lab.REPOSITORY_ID).data_keys()
    return site


def backed(site: Site, blocks: dict[int, bytes], geometry: Geometry = GEOMETRY) -> BlockTree:
    repository = lab.open_at(site.folder)
    point = lab.backup(repository, blocks, geometry)
    repository.close()
    return BlockTree(BlockId(bytes.fromhex(point.disks[0].root)), geometry)


def order(tree: BlockTree, **how: object) -> BackupOrder:
    origin = OriginDisk(name="disk root of 3f2a", root=tree.root, since=how.pop("since", None))  # type: ignore[arg-type]
    mode = how.pop("mode", ChangeMode.ALLOCATION)
    return BackupOrder(geometry=tree.geometry, disks=(), mode=mode, origin=origin, **how)  # type: ignore[arg-type]


def content(site: Site, root: BlockId | None, geometry: Geometry = GEOMETRY) -> dict[int, bytes]:
    """The blocks of a disk restored from ``site`` that are not zeros."""
    assert root is not None
    path = site.folder / "disks" / "restored"
    site.restore(root, geometry, f"file:{path}", overwrite=True)
    found: dict[int, bytes] = {}
    with path.open("rb") as file:
        for number in {*FULL, 1234, 69_999, geometry.blocks - 1} & set(range(geometry.blocks)):
            file.seek(number * lab.BLOCK)
            found[number] = file.read(lab.BLOCK).ljust(lab.BLOCK, b"\0")
    path.unlink()
    return {number: plain for number, plain in found.items() if plain != lab.ZERO}


def test_a_copy_is_the_point_under_other_ids(origin: Site, here: Site) -> None:
    tree = backed(origin, FULL)
    done, _ = here.copy(origin, order(tree))
    assert done.proxy.root == done.repository.root != tree.root
    assert done.counters.sent_bytes == (len(FULL) - 2) * lab.BLOCK + 512, "block 61 is block 0 again"
    assert_same(content(here, done.repository.root), FULL)
    again, _ = here.copy(origin, order(tree))
    assert again.counters.sent_bytes == 0
    assert again.repository.root == done.repository.root


def test_an_incremental_copy_reads_and_sends_the_change(origin: Site, here: Site) -> None:
    first = backed(origin, FULL)
    base, _ = here.copy(origin, order(first))
    assert base.repository.root is not None
    now = FULL | {7: lab.block("new"), 1234: lab.block("born"), 8: lab.ZERO}
    second = backed(origin, now)
    change = order(
        second, mode=ChangeMode.CBT, since=first, base_root=base.repository.root, base_geometry=first.geometry
    )
    done, _ = here.copy(origin, change)
    assert done.counters.read_bytes == 3 * lab.BLOCK
    assert done.counters.sent_bytes == 2 * lab.BLOCK
    del now[8]
    assert_same(content(here, done.repository.root), now)
    full, _ = here.copy(origin, order(second))
    assert full.repository.root == done.repository.root, "the same tree as that of a full copy"


@pytest.mark.parametrize("blocks", [200, 70_001 - 256, 80_000])
def test_a_disk_that_was_resized(origin: Site, here: Site, blocks: int) -> None:
    first = backed(origin, FULL)
    base, _ = here.copy(origin, order(first))
    geometry = Geometry(blocks * lab.BLOCK - 1024, lab.LOG2)
    now = {number: plain for number, plain in FULL.items() if number < min(blocks, 70_000)} | {9: lab.block("new")}
    second = backed(origin, now, geometry)
    change = order(
        second, mode=ChangeMode.CBT, since=first, base_root=base.repository.root, base_geometry=first.geometry
    )
    done, _ = here.copy(origin, change)
    full, _ = here.copy(origin, order(second))
    assert full.repository.root == done.repository.root
    assert_same(content(here, done.repository.root, geometry), now)


def test_an_empty_disk(origin: Site, here: Site) -> None:
    done, _ = here.copy(origin, order(BlockTree(HOLE, Geometry(0, lab.LOG2))))
    assert done.repository.root == HOLE


def test_what_the_target_has_lost_is_read_again(origin: Site, here: Site) -> None:
    """The base's records in quarantine come from the origin, though no block has changed: this is how a heal works."""
    tree = backed(origin, FULL)
    base, _ = here.copy(origin, order(tree))
    lost = [here.keys.block_id(FULL[number]) for number in (3, 300, 70_000)]
    repository = lab.open_at(here.folder)
    (home,) = {home.pack for homes in repository.index.find(lost).values() for home in homes}
    put_records_aside(repository.store, home, lost, "a test")
    repository.close()
    heal = order(tree, mode=ChangeMode.CBT, extents=(), base_root=base.repository.root, base_geometry=GEOMETRY)
    done, _ = here.copy(origin, heal)
    assert done.counters.sent_bytes == 2 * lab.BLOCK + 512
    assert done.repository.root == base.repository.root
    assert_same(content(here, done.repository.root), FULL)
    again, _ = here.copy(origin, heal)
    assert again.counters.read_bytes == 0


def damage(site: Site, record_id: BlockId) -> None:
    repository = lab.open_at(site.folder)
    (home,) = repository.index.find([record_id])[record_id]
    repository.close()
    (path,) = (site.folder / "repository" / "packs").rglob(home.pack)
    lab.flip(path, home.offset + home.length - 3)


@pytest.mark.parametrize("what", ["block 7", "a node of the block tree"])
def test_damage_in_the_origin_is_named_and_put_aside(origin: Site, here: Site, what: str) -> None:
    tree = backed(origin, FULL)
    bad = lab.block_id(FULL[7]) if what == "block 7" else tree.root
    damage(origin, bad)
    with pytest.raises(OriginDamaged) as caught:
        here.copy(origin, order(tree))
    assert (caught.value.fields["what"], caught.value.fields["disk"]) == (what, "disk root of 3f2a")
    repository = lab.open_at(origin.folder)
    assert bad in set(Quarantine.read(repository.store).record_ids())
    repository.close()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_whoever_dies_ends_the_others(origin: Site, here: Site, which: int) -> None:
    tree = backed(origin, FULL)
    with here.session() as lock, here.copy_trio(origin, lock.sid) as movers:
        os.kill(movers[which].process.pid, signal.SIGKILL)
        movers[which].process.wait()
        if which:
            with contextlib.suppress(BrokenPipeError):  # it may have noticed, and ended, by now
                movers[0].send(Begin(order=order(tree)))
        for mover in movers:
            if mover is not movers[which]:
                assert isinstance(mover.failure(), ConnectionLost)
    done, _ = here.copy(origin, order(tree))
    assert_same(content(here, done.repository.root), FULL)


def test_extents_are_those_of_the_point(origin: Site, here: Site) -> None:
    """An order may name extents itself; what lies between them is kept from the base."""
    tree = backed(origin, FULL)
    base, _ = here.copy(origin, order(backed(origin, {})))
    some = order(
        tree,
        mode=ChangeMode.CBT,
        extents=(Extent(5 * lab.BLOCK, 3 * lab.BLOCK),),
        base_root=base.repository.root,
        base_geometry=GEOMETRY,
    )
    done, _ = here.copy(origin, some)
    assert_same(content(here, done.repository.root), {number: FULL[number] for number in (5, 6, 7)})
