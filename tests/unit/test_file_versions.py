"""Files of several points beside each other."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast_agent.wire.files import FileEntry, FileKind
from holdfast_manager.reports.file_versions import changes, changes_text, versions, versions_text


def file(path: bytes, **facts: Any) -> FileEntry:
    return msgspec.structs.replace(FileEntry(path, FileKind.FILE, size=1, mtime_ns=5, mode=0o644), **facts)


def test_what_differs_is_told_by_path() -> None:
    before = [file(b"/same"), file(b"/gone"), file(b"/larger"), file(b"/folder", kind=FileKind.FOLDER, mtime_ns=1)]
    after = [
        file(b"/larger", size=2),
        file(b"/same"),
        file(b"/new"),
        file(b"/folder", kind=FileKind.FOLDER, mtime_ns=9),
    ]
    found = changes(before, after)
    assert [(each.path, each.change.value) for each in found] == [
        ("/gone", "removed"), ("/larger", "changed"), ("/new", "added"),
    ]  # fmt: skip
    assert "/larger" in changes_text(found)
    assert changes(after, after) == []
    assert changes_text([]) == "No file differs"


def test_each_fact_of_a_file_makes_a_version_and_none_is_told_twice() -> None:
    facts = ({}, {"size": 2}, {"mtime_ns": 6}, {"mode": 0o600}, {"uid": 1}, {"gid": 1}, {"target": b"x"}, {})
    points = [(f"{number}", [file(b"/a", **changed)]) for number, changed in enumerate(facts)]
    found = versions([*points, ("last", [file(b"/b")])])
    assert [each.points for each in found] == [("0", "7"), ("1",), ("2",), ("3",), ("4",), ("5",), ("6",), ("last",)]
    assert [each.file.path for each in found] == ["/a"] * 7 + ["/b"]
    assert "0 … 7" in versions_text(found)
