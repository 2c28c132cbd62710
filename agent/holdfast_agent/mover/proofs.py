"""The work of a checker's threads: is a record what its id says?"""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol, TypeVar

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, WrongKey
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.sealing.records import Pieces, open_plain_pieces, parse_header, view_pieces
from holdfast_agent.sealing.tree import Node, decode_node

from .stages import StageClock


class HasId(Protocol):
    @property
    def id(self) -> BlockId: ...


W = TypeVar("W", bound=HasId)


class Checked(NamedTuple, Generic[W]):
    """``problem`` None: it is what its id says. ``refuse``: another home may have a better one."""

    wanted: W
    cost_bytes: int
    problem: str | None = None
    refuse: bool = False
    node: Node | None = None


class Proofs:
    """Thread-safe: holds constants only."""

    def __init__(self, keys: DataKeys, clock: StageClock) -> None:
        self._keys = keys
        self._clock = clock

    def block(self, wanted: W, record: Pieces, block_bytes: int, cost_bytes: int) -> Checked[W]:
        """Open a block's record and compute its id anew."""
        with self._clock:
            try:
                plain = view_pieces(record, self._keys, wanted.id)
            except (ObjectDamaged, WrongKey) as error:
                # A record of an epoch whose key we were not given is not bad for that.
                known = self._keys.key_of(parse_header(record[0]).epoch) is not None
                return Checked(wanted, cost_bytes, error.text, refuse=known or isinstance(error, ObjectDamaged))
            except FormatUnsupported as error:  # of a later version: no damage
                return Checked(wanted, cost_bytes, error.text)
            if len(plain) != block_bytes:
                return Checked(wanted, cost_bytes, "the block is not of its disk's block size")
            return Checked(wanted, cost_bytes)

    def node(self, wanted: W, record: Pieces, place: tuple[int, int], cost_bytes: int) -> Checked[W]:
        """Hash a node; ``place``: the level and log2 of the block size that it must have."""
        with self._clock:
            try:
                data = open_plain_pieces(record, wanted.id)
                return Checked(wanted, cost_bytes, node=decode_node(data, wanted.id, *place))
            except (ObjectDamaged, FormatUnsupported) as error:
                return Checked(wanted, cost_bytes, error.text, refuse=True)
