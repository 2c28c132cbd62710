"""What a verification has found so far: each thing once, with the points that it touches and whether data is lost."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast_agent.model.ids import BlockId, Sid
from holdfast_agent.wire.messages import Finding

from .quarantine import Quarantine, put_pack_aside, put_records_aside
from .store import ObjectStore

Key = tuple[str, str]
"""(kind, name) of a finding."""


class _Found:
    def __init__(self, detail: str) -> None:
        self.detail = detail
        self.points: set[Sid] = set()
        self.lost = False


class Findings:
    """Gathers findings; remembers which homes of records are bad. One owner thread."""

    def __init__(self) -> None:
        self._found: dict[Key, _Found] = {}
        self._records: dict[tuple[BlockId, str], Key] = {}
        self._packs: dict[str, Key] = {}
        self._nowhere: dict[BlockId, Key] = {}

    def report(self, kind: str, name: str, detail: str) -> Key:
        """Something is wrong; what was said of it first stays."""
        self._found.setdefault((kind, name), _Found(detail))
        return kind, name

    def bad_pack(self, pack: str, detail: str) -> Key:
        """A pack as such is bad: gone, cut, or its table cannot be trusted."""
        return self._packs.setdefault(pack, self.report("pack", pack, detail))

    def bad_record(self, record_id: BlockId, pack: str, detail: str, kind: str = "record") -> Key:
        """One home of a record is bad."""
        known = self._records.get((record_id, pack))
        if known is None:
            known = self._records[record_id, pack] = self.report(kind, f"{pack}/{record_id.hex()[:16]}", detail)
        return known

    def nowhere(self, record_id: BlockId, kind: str) -> Key:
        """No pack has the record."""
        key = self._nowhere[record_id] = self.report(kind, record_id.hex()[:16], "it is in no pack")
        return key

    def of_record(self, record_id: BlockId, pack: str) -> Key | None:
        return self._records.get((record_id, pack))

    def of_pack(self, pack: str) -> Key | None:
        return self._packs.get(pack)

    def lose(self, keys: Iterable[Key]) -> None:
        """These findings have cost data that a point needs."""
        for key in keys:
            self._found[key].lost = True

    def touch(self, keys: Iterable[Key], sid: Sid) -> None:
        """These findings touch a point."""
        for key in keys:
            self._found[key].points.add(sid)

    def drop_known(self, quarantine: Quarantine) -> int:
        """Drop what was in quarantine before and costs nobody data: it was stored again, or no point needs it."""
        known = [key for pack, key in self._packs.items() if pack in quarantine.packs]
        known += [key for (record_id, pack), key in self._records.items() if quarantine.holds(record_id, pack)]
        harmless = {key for key in known if not self._found[key].lost}
        for key in harmless:
            del self._found[key]
        return len(harmless)

    def put_aside(self, store: ObjectStore, packs: bool) -> int:
        """Note every bad home in quarantine, bad packs as a whole only if ``packs``; how many notes are new.

        Raises storage errors.
        """
        by_pack: dict[str | None, list[BlockId]] = {}
        for record_id, pack in self._records:
            by_pack.setdefault(pack, []).append(record_id)
        if self._nowhere:
            by_pack[None] = list(self._nowhere)
        written = 0
        for home, ids in by_pack.items():
            if home not in self._packs:
                written += put_records_aside(store, home, ids, "found by a verification")
        for pack, key in self._packs.items() if packs else ():
            written += put_pack_aside(store, pack, self._found[key].detail if key in self._found else "bad")
        return written

    def listed(self) -> tuple[Finding, ...]:
        """All findings: lost data first."""
        order = sorted(self._found.items(), key=lambda item: (not item[1].lost, *item[0]))
        return tuple(
            Finding(object=name, kind=kind, detail=found.detail, points=tuple(sorted(found.points)), lost=found.lost)
            for (kind, name), found in order
        )
