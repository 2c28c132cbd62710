"""How two trees of a repository differ: told from their nodes alone, no data read and no key needed."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.errors import UsageError
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.ids import BlockId
from holdfast_agent.wire.messages import CompareTrees, TreesCompared

from .agent import Agent
from .calls import Call
from .repositories import opened

_MOST_EXTENTS = 1 << 16


def compare_trees(agent: Agent, call: Call[CompareTrees]) -> None:
    request = call.request
    if request.tree.geometry.block_log2 != request.since.geometry.block_log2:
        raise UsageError(reason="they have blocks of different sizes, which cannot be compared")

    def work() -> TreesCompared:
        from holdfast_agent.mover.tree_changes import changed_leaves
        from holdfast_agent.sealing.records import open_plain_record
        from holdfast_agent.sealing.tree import decode_node

        log2, blocks = request.tree.geometry.block_log2, request.tree.geometry.blocks
        end = max(blocks, request.since.geometry.blocks)
        with opened(agent.settings, request.repository) as repository:
            reader = repository.reader()

            def read(nodes: Sequence[tuple[BlockId, int]]) -> list[bytes]:
                records = [(open_plain_record(reader.read_record(node), node), node, level) for node, level in nodes]
                return [decode_node(data, node, level, log2).ids for data, node, level in records]

            changed = 0
            extents: list[Extent] = []
            for leaf in changed_leaves(request.tree, request.since, read):
                for first, count in leaf.changes(end):
                    changed += count
                    start, length = first << log2, count << log2
                    if extents and extents[-1].end == start:
                        extents[-1] = Extent(extents[-1].start, extents[-1].length + length)
                    elif len(extents) <= _MOST_EXTENTS:
                        extents.append(Extent(start, length))
        more = len(extents) > _MOST_EXTENTS
        return TreesCompared(changed_bytes=changed << log2, extents=tuple(extents[:_MOST_EXTENTS]), more=more)

    agent.repository_work.run(work, call.settle)
