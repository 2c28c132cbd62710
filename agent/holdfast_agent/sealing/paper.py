"""The paper key: the master key and its repository's id as letters that a person can copy by hand, and back again.

Four lines of 24 letters of base32. Each line carries a check of its own, so that a slip is named by its line, and the
whole carries one over all, so that lines of two papers are never mixed. Nothing about it is secret but the letters.
"""

from __future__ import annotations

import base64
import re

from blake3 import blake3

from holdfast_agent.errors import PaperKeyWrong

from .keys import KEY_BYTES, REPOSITORY_ID_BYTES, MasterKey, repository_id_bytes

LINES = 4
LINE_LETTERS = 24
GROUP_LETTERS = 4
_VERSION = b"\x01"
_LINE_BYTES = 13
_LINE_CHECK_BYTES = 2
_WHOLE_CHECK_BYTES = 3
_LOOKALIKES = str.maketrans("018", "OIB")  # base32 has none of these digits
_PRINTED_LINE = re.compile(r"[ \t]*(?:[A-Z0-8]{4} ){5}[A-Z0-8]{4}[ \t]*")


def encode_paper(master: MasterKey, repository_id: str) -> tuple[str, ...]:
    """The four lines, each of six groups of four letters."""
    body = _VERSION + master.reveal() + repository_id_bytes(repository_id)
    whole = body + _check(b"all", body, _WHOLE_CHECK_BYTES)
    lines = []
    for number in range(LINES):
        part = whole[number * _LINE_BYTES : (number + 1) * _LINE_BYTES]
        letters = base64.b32encode(part + _check(b"%d" % number, part, _LINE_CHECK_BYTES)).decode()
        groups = [letters[place : place + GROUP_LETTERS] for place in range(0, LINE_LETTERS, GROUP_LETTERS)]
        lines.append(" ".join(groups))
    return tuple(lines)


def decode_paper(text: str) -> tuple[MasterKey, str]:
    """(master key, repository id) from what a person typed, a QR code gave, or a file of the whole printed page holds.

    Spaces, hyphens and case do not matter; 0, 1 and 8 are taken for the letters that they look like. Raises
    :class:`PaperKeyWrong`, which names the line of a slip.
    """
    given = text.splitlines()
    printed = [line for line in given if _PRINTED_LINE.fullmatch(line)]
    lines = [letters for line in (printed if len(printed) == LINES else given) if (letters := _letters(line))]
    if len(lines) == 1 and len(lines[0]) == LINES * LINE_LETTERS:
        lines = [lines[0][place : place + LINE_LETTERS] for place in range(0, len(lines[0]), LINE_LETTERS)]
    if len(lines) != LINES:
        raise PaperKeyWrong(reason=f"it has {LINES} lines of {LINE_LETTERS} letters, not {len(lines)}")
    whole = b"".join(_decode_line(number, line) for number, line in enumerate(lines))
    body, check = whole[:-_WHOLE_CHECK_BYTES], whole[-_WHOLE_CHECK_BYTES:]
    if _check(b"all", body, _WHOLE_CHECK_BYTES) != check:
        raise PaperKeyWrong(reason="its lines do not belong together")
    if body[:1] != _VERSION:
        raise PaperKeyWrong(reason="it was printed by a later version of Holdfast")
    master, repository = body[1 : 1 + KEY_BYTES], body[1 + KEY_BYTES : 1 + KEY_BYTES + REPOSITORY_ID_BYTES]
    return MasterKey(master), repository.hex()


def _letters(line: str) -> str:
    return "".join(line.replace("-", " ").split()).upper().translate(_LOOKALIKES)


def _decode_line(number: int, letters: str) -> bytes:
    where = f"line {number + 1}"
    if len(letters) != LINE_LETTERS:
        raise PaperKeyWrong(reason=f"{where} has {len(letters)} letters, not {LINE_LETTERS}")
    try:
        raw = base64.b32decode(letters)
    except ValueError as error:  # binascii's, or that of a letter that is not ASCII
        raise PaperKeyWrong(reason=f"{where} has a character that is no letter from A to Z or digit 2 to 7") from error
    part, check = raw[:_LINE_BYTES], raw[_LINE_BYTES:]
    if _check(b"%d" % number, part, _LINE_CHECK_BYTES) != check:
        raise PaperKeyWrong(reason=f"a character of {where} is wrong, or the lines are out of order")
    return part


def _check(what: bytes, data: bytes, length: int) -> bytes:
    return blake3(b"holdfast paper key " + what + b"\0" + data).digest(length)
