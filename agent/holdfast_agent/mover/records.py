"""Sending sealed records: what is encrypted already is not encrypted once more."""

from __future__ import annotations

from holdfast_agent.sealing.keys import Cipher
from holdfast_agent.sealing.records import Pieces, parse_header

from .conversation import Record, encode
from .line import Peer


def send_record(connection: Peer, pieces: Pieces) -> int:
    """Send a record over any stream; the bytes that it takes on the wire. The pieces must not change any more."""
    head, payload = pieces
    body = encode(Record(bytes(head)))
    if parse_header(head).cipher == Cipher.NONE:
        return connection.send(body, [payload], spread=True)
    return connection.send(body, ciphertext=payload, spread=True)
