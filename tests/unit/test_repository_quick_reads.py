"""Small reads of records: as they stand where the index says, and nothing where they do not stand."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.repository.quick_reads import QuickReader
from holdfast_agent.sealing.records import open_pieces
from lab import repositories as lab


def test_a_record_is_read_where_it_stands_and_looked_for_anew_where_it_is_gone(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    repository = lab.open_at(tmp_path)
    blocks = {number: lab.block(number) for number in range(3)}
    lab.backup(repository, blocks, Geometry(3 * lab.BLOCK, lab.LOG2))
    reader = repository.reader()
    quick = QuickReader(repository.store, reader)
    wanted = lab.block_id(blocks[1])
    for _ in range(2):
        sealed = quick.read(wanted)
        assert sealed is not None
        assert open_pieces(sealed, lab.DATA_KEYS, wanted) == blocks[1]
    assert quick.read(BlockId(b"?" * 32)) is None

    (home,) = reader.locate([wanted])
    assert home is not None
    (pack,) = (tmp_path / "repository").rglob(home.pack)
    aside = pack.with_name("aside")
    pack.rename(aside)
    assert quick.read(wanted) is None
    aside.rename(pack)
    assert quick.read(wanted) is not None
    os.truncate(pack, home.offset + home.length - 1)
    assert quick.read(wanted) is None
    repository.close()
