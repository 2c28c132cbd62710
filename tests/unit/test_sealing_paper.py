"""The paper key: what is printed comes back whatever way it is typed, and every slip is found and named."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.errors import HoldfastError, PaperKeyWrong
from holdfast_agent.sealing.keys import MasterKey, new_repository_id
from holdfast_agent.sealing.paper import decode_paper, encode_paper
from holdfast_manager.cli.key import _PAPER, qr_text

ID = "00112233445566778899aabbccddeeff"
MASTER = MasterKey(bytes(range(32)))
LINES = encode_paper(MASTER, ID)
LETTERS = string.ascii_uppercase + "234567"


def test_it_is_printed_as_it_always_was() -> None:
    """Papers lie in safes for years: their form is part of the format."""
    assert LINES == (
        "AEAA CAQD AQCQ MBYI BEFA X752",
        "BQGQ 4DYQ CEJB GFAV CYLR QQ6K",
        "DENB WHA5 DYPQ AEJC GNCF LXIG",
        "MZ3Y RGNK XPGN 33X7 IAQL QJNU",
    )


@given(secret=st.binary(min_size=32, max_size=32))
def test_what_is_printed_comes_back(secret: bytes) -> None:
    repository_id = new_repository_id()
    lines = encode_paper(MasterKey(secret), repository_id)
    assert all(len(line) == 29 for line in lines)
    assert decode_paper("\n".join(lines)) == (MasterKey(secret), repository_id)


@pytest.mark.parametrize(
    "typed",
    [
        "\n".join(LINES).lower(),
        "\n\n".join(line.replace(" ", "-") for line in LINES) + "\n",
        "".join(LINES).replace(" ", ""),
        "\r\n".join(line.replace("O", "0").replace("I", "1").replace("B", "8") for line in LINES),
    ],
)
def test_spaces_case_and_lookalikes_do_not_matter(typed: str) -> None:
    assert decode_paper(typed) == (MASTER, ID)


def test_the_whole_page_in_a_file_opens_as_its_four_lines_do() -> None:
    """Who kept what `key paper` printed has words and a code around the letters."""
    lines = "\n".join(f"    {line}" for line in LINES)
    page = _PAPER.format(name="main", repository_id=ID, lines=lines, code="█▀▄ █\n")
    assert decode_paper(page) == (MASTER, ID)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("place", [0, 7, 23])
def test_one_wrong_character_is_named_by_its_line(number: int, place: int) -> None:
    letters = LINES[number].replace(" ", "")
    missed = []
    for other in LETTERS.replace(letters[place], ""):
        lines = [*LINES]
        lines[number] = letters[:place] + other + letters[place + 1 :]
        try:
            decode_paper("\n".join(lines))
            missed.append(other)
        except PaperKeyWrong as error:
            if f"line {number + 1}" not in str(error):
                missed.append(other)
    assert missed == []


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "4 lines of 24 letters, not 0"),
        ("\n".join(LINES[:3]), "not 3"),
        ("\n".join([LINES[1], LINES[0], *LINES[2:]]), "out of order"),
        ("\n".join([LINES[0][:-1], *LINES[1:]]), "line 1 has 23 letters"),
        ("\n".join([*LINES[:3], LINES[3] + "A"]), "line 4 has 25 letters"),
        ("\n".join([LINES[0].replace("Q", "9"), *LINES[1:]]), "line 1 has a character that is no letter"),
        ("\n".join([*LINES[:2], *encode_paper(MasterKey(b"x" * 32), ID)[2:]]), "do not belong together"),
    ],
)
def test_slips_are_named(typed: str, told: str) -> None:
    with pytest.raises(PaperKeyWrong, match=told):
        decode_paper(typed)


@given(text=st.text(max_size=200))
def test_nothing_but_a_typed_error_comes_of_nonsense(text: str) -> None:
    with pytest.raises(HoldfastError):
        decode_paper(text)


def test_the_code_fits_a_terminal() -> None:
    lines = qr_text("".join(LINES).replace(" ", "")).splitlines()
    assert 10 < len(lines) < 30
