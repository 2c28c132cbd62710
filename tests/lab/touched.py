"""Which blocks extents touch, told block by block: what the product reckons by runs is compared with it."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.model.geometry import Extent, Geometry


def touched_blocks(geometry: Geometry, extents: Sequence[Extent]) -> set[int]:
    """Numbers of the blocks of which at least one byte lies in an extent."""
    return {number for number in range(geometry.blocks) if _touches(geometry.extent(number), extents)}


def _touches(block: Extent, extents: Sequence[Extent]) -> bool:
    return any(max(block.start, each.start) < min(block.end, each.end) for each in extents)
