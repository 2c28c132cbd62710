"""Linux swap (include/linux/swap.h, ``union swap_header``): only its first page means anything to a fresh system."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from holdfast_agent.model.geometry import Extent

from .reading import Doubt, Volume

_PAGE = 4096


def is_swap(volume: Volume) -> bool:
    """A system that hibernates puts another signature there, and is not recognised: its image is kept."""
    return volume.has(_PAGE - 10, b"SWAPSPACE2")


def unused(volume: Volume) -> Iterator[Extent]:
    """The pages behind the header, in bytes of the volume. Raises :class:`Doubt`."""
    version, last_page, bad_pages = struct.unpack_from("<III", volume.read(0, _PAGE), 1024)
    if version != 1 or not last_page or bad_pages > 637 or (last_page + 1) * _PAGE > volume.extent.length:
        raise Doubt("its header is not sound")
    yield Extent(_PAGE, last_page * _PAGE)
