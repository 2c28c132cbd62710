"""Points: canonical, authentic, and refused when anything about them was altered."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import FormatUnsupported, PointNotAuthentic
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Origin, Point, PointEntry
from holdfast_agent.sealing.keys import MasterKey, RepositoryKeys
from holdfast_agent.sealing.roots import open_point, pack_set_digest, read_point, seal_point

ID = "00112233445566778899aabbccddeeff"
KEYS = RepositoryKeys.derive(MasterKey(bytes(range(32))), ID)
POINT = Point(
    sid=Sid("ab" * 16),
    repository_id=ID,
    created=1700000000.25,
    job="nightly",
    server="lab",
    vm_id="vm-1",
    vm_name="Grüße",
    disks=(DiskPoint("disk0", "root", 3 << 30, 20, "11" * 32, ChangeMode.DIGEST, "no tracking"),),
    packs=pack_set_digest([]),
)


def test_round_trip_and_stable_bytes() -> None:
    entry = seal_point(POINT, KEYS)
    assert open_point(entry, KEYS) == POINT
    assert seal_point(POINT, KEYS) == entry
    keys = list(msgspec.json.decode(entry.body))
    assert keys == sorted(keys)
    assert entry.mac.hex() == "09ea1a685e4fb6869ab05cca85dd33746f91991763feeeed9ddc1e0f1d48374d"


def test_the_origin_of_a_copy_is_in_the_body_and_nothing_is_in_that_of_others() -> None:
    """So a copy's relation to its original is under the MAC; and points that are none are the bytes that they were."""
    copy = msgspec.structs.replace(POINT, origin=Origin("ff" * 16, Sid("cd" * 16)))
    entry = seal_point(copy, KEYS)
    assert open_point(entry, KEYS).identity == copy.origin
    assert msgspec.json.decode(entry.body)["origin"] == {"repository_id": "ff" * 16, "sid": "cd" * 16}
    assert b"origin" not in seal_point(POINT, KEYS).body
    assert POINT.identity == Origin(ID, POINT.sid)


def test_a_tracker_is_in_the_body_where_there_is_one_and_no_trace_of_it_elsewhere() -> None:
    (disk,) = POINT.disks
    tracked = msgspec.structs.replace(POINT, disks=(msgspec.structs.replace(disk, tracker="bitmaps"),))
    entry = seal_point(tracked, KEYS)
    assert open_point(entry, KEYS) == tracked
    assert b'"tracker":"bitmaps"' in entry.body
    assert b"tracker" not in seal_point(POINT, KEYS).body


def test_every_flipped_byte_of_body_and_mac_is_detected() -> None:
    entry = seal_point(POINT, KEYS)
    for position in range(len(entry.body)):
        body = bytearray(entry.body)
        body[position] ^= 1
        with pytest.raises(PointNotAuthentic):
            open_point(PointEntry(entry.sid, bytes(body), entry.mac), KEYS)
    for position in range(32):
        mac = bytearray(entry.mac)
        mac[position] ^= 1
        with pytest.raises(PointNotAuthentic):
            open_point(PointEntry(entry.sid, entry.body, bytes(mac)), KEYS)


@pytest.mark.parametrize("mac", [b"", b"x" * 31, b"x" * 33])
def test_a_mac_of_another_length_is_refused(mac: bytes) -> None:
    entry = seal_point(POINT, KEYS)
    with pytest.raises(PointNotAuthentic):
        open_point(PointEntry(entry.sid, entry.body, mac), KEYS)


def test_a_point_filed_under_another_sid_or_key_is_refused() -> None:
    entry = seal_point(POINT, KEYS)
    with pytest.raises(PointNotAuthentic):
        open_point(PointEntry(Sid("cd" * 16), entry.body, entry.mac), KEYS)
    with pytest.raises(PointNotAuthentic):
        open_point(entry, RepositoryKeys.derive(MasterKey.generate(), ID))


def test_a_point_of_another_repository_is_refused() -> None:
    with pytest.raises(ValueError, match="another repository"):
        seal_point(POINT, RepositoryKeys.derive(MasterKey.generate(), "ff" * 16))


def test_a_later_version_is_told() -> None:
    entry = seal_point(msgspec.structs.replace(POINT, version=2), KEYS)
    with pytest.raises(FormatUnsupported):
        open_point(entry, KEYS)


@pytest.mark.parametrize(
    "disk",
    [msgspec.structs.replace(POINT.disks[0], root="zz" * 32), msgspec.structs.replace(POINT.disks[0], root="11"),
     msgspec.structs.replace(POINT.disks[0], block_log2=40), msgspec.structs.replace(POINT.disks[0], size_bytes=-1)],
)  # fmt: skip
def test_an_impossible_disk_is_refused_without_keys(disk: DiskPoint) -> None:
    entry = seal_point(msgspec.structs.replace(POINT, disks=(disk,)), KEYS)
    with pytest.raises(PointNotAuthentic):
        read_point(entry)


def test_the_digest_of_a_pack_set_depends_on_names_only() -> None:
    assert pack_set_digest(["b", "a"]) == pack_set_digest(["a", "b"])
    assert len({pack_set_digest(names) for names in ([], ["a"], ["b"], ["a", "b"], ["ab"], ["a\n", "b"])}) == 6
