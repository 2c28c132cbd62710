"""Extended attributes as people and programs are shown them."""

from __future__ import annotations

import struct

import pytest

from holdfast_agent.wire.files import FileEntry, FileKind
from holdfast_manager.reports.file_attributes import ACCESS, attribute_texts
from holdfast_manager.reports.files_text import files_text

LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 7, 0xFFFFFFFF), (2, 4, 1000), (4, 5, 0xFFFFFFFF), (8, 2, 70000), (16, 7, 0xFFFFFFFF), (32, 0, 0))
)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (b"user.note", "käse".encode(), "käse"),
        (b"security.selinux", b"system_u:object_r:etc_t:s0\0", "system_u:object_r:etc_t:s0"),
        (b"user.empty", b"", ""),
        (b"user.binary", b"\xff\0", "0xff00"),
        (b"user.lines", b"two\nlines", "0x74776f0a6c696e6573"),
        (b"user.looks-like", b"0x41", "0x30783431"),
        (ACCESS.encode(), LIST, "user::rwx,user:1000:r--,group::r-x,group:70000:-w-,mask::rwx,other::---"),
        (ACCESS.encode(), b"\2\0\0\0", "0x02000000"),
        (ACCESS.encode(), LIST[:-1], f"0x{LIST[:-1].hex()}"),
        (b"user.\xff", b"x", "x"),
    ],
)
def test_values_are_text_where_they_are_and_nothing_reads_as_something_else(
    name: bytes, value: bytes, text: str
) -> None:
    assert attribute_texts(((name, value),)) == {name.decode("utf-8", "backslashreplace"): text}


def test_an_access_list_shows_behind_the_mode() -> None:
    plain = FileEntry(b"/plain", FileKind.FILE, mode=0o640, attributes=((b"user.note", b"x"),))
    shared = FileEntry(b"/shared", FileKind.FILE, mode=0o640, attributes=((ACCESS.encode(), LIST),))
    _, first, second = (
        line for line in files_text((plain, shared), whole_paths=False).splitlines() if "mode" in line or "-rw" in line
    )
    assert first.split()[0] == "-rw-r-----"
    assert second.split()[0] == "-rw-r-----+"
