"""Master keys, derived keys and key slots."""

from __future__ import annotations

import resource

import msgspec
import pytest

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, WrongKey, WrongPassphrase
from holdfast_agent.sealing import slots
from holdfast_agent.sealing.keys import PUBLIC, Cipher, DataKeys, MasterKey, RepositoryKeys, new_repository_id

ID = "00112233445566778899aabbccddeeff"
LEAST = slots.LEAST_MEMORY_KIB


def test_derivation_is_fixed_for_ever() -> None:
    keys = RepositoryKeys.derive(MasterKey(bytes(range(32))), ID)
    assert keys.id_key.hex() == "949e6439b7ad375fccdfcf2d0b9f8027155fd0343448b0243fb11f7aa7c9bf7c"
    assert keys.enc_key.hex() == "509c9c43e1f9a144c46e46a28a26c55745620ffa07c7eecddfdd41fe6c3ad34f"
    assert keys.root_key.hex() == "90e8f20070bd6f29c8cc34aedf272759d6a0a1994ed52de34f6ef621a9bb8bfd"


def test_all_keys_differ_by_purpose_repository_and_epoch() -> None:
    master = MasterKey.generate()
    one, other, later = (
        RepositoryKeys.derive(master, ID),
        RepositoryKeys.derive(master, new_repository_id()),
        RepositoryKeys.derive(master, ID, epoch=2),
    )
    purposes = [[k.id_key, k.enc_key, k.meta_id_key, k.meta_key, k.root_key] for k in (one, other)]
    assert len({key for keys in purposes for key in keys}) == 10
    assert (one.id_key, one.meta_id_key, one.root_key) == (later.id_key, later.meta_id_key, later.root_key)
    assert one.enc_key != later.enc_key
    assert one.meta_key != later.meta_key


def test_the_public_key_seals_nothing_and_a_secret_one_does() -> None:
    assert RepositoryKeys.derive(PUBLIC, ID).cipher is Cipher.NONE
    assert RepositoryKeys.derive(MasterKey.generate(), ID).cipher is Cipher.XAES_256_GCM


def test_keys_do_not_show_in_representations() -> None:
    master = MasterKey(b"s" * 32)
    keys = RepositoryKeys.derive(master, ID)
    for shown in (repr(master), str(master), repr(keys), repr(keys.data_keys()), f"{keys.blob_keys()}"):
        assert "sss" not in shown
        assert "key=" not in shown
        assert repr(keys.enc_key) not in shown


def test_data_keys_travel_as_a_message() -> None:
    keys = RepositoryKeys.derive(MasterKey.generate(), ID).data_keys(verify_decode=False)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(keys), type=DataKeys) == keys


@pytest.mark.parametrize("wrong", ["", "zz" * 16, "00" * 15, "AA" * 16, "00 " * 16])
def test_a_repository_id_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(WrongKey):
        RepositoryKeys.derive(PUBLIC, wrong)


def test_a_master_key_of_another_length_is_refused() -> None:
    with pytest.raises(WrongKey, match="32 bytes"):
        MasterKey(b"short")


@pytest.fixture(scope="module")
def master() -> MasterKey:
    return MasterKey.generate()


@pytest.fixture(scope="module")
def slot(master: MasterKey) -> bytes:
    return slots.wrap_master(master, "correct horse", ID, memory_kib=LEAST)


def test_a_slot_opens_with_its_passphrase_among_several(master: MasterKey, slot: bytes) -> None:
    other = slots.wrap_master(master, "battery staple", ID, memory_kib=LEAST)
    assert slots.open_slots({"a": slot, "b": other}, "battery staple", ID) == master
    assert slot != slots.wrap_master(master, "correct horse", ID, memory_kib=LEAST)


def test_a_wrong_or_missing_passphrase_is_told(slot: bytes) -> None:
    for passphrase in ("correct horse ", "", None):
        with pytest.raises(WrongPassphrase):
            slots.open_slots({"a": slot}, passphrase, ID)


def test_a_public_slot_opens_without_a_passphrase_only(slot: bytes) -> None:
    public = slots.public_slot(ID)
    assert slots.is_public(public)
    assert not slots.is_public(slot)
    assert slots.open_slots({"a": public}, None, ID).public
    with pytest.raises(WrongPassphrase):
        slots.open_slots({"a": public}, "correct horse", ID)


def test_a_slot_of_another_repository_is_refused(slot: bytes) -> None:
    with pytest.raises(ObjectDamaged, match="another repository"):
        slots.open_slots({"a": slot}, "correct horse", new_repository_id())


@pytest.mark.parametrize(
    ("field", "value"),
    [("memory_kib", 1024), ("memory_kib", 1 << 40), ("iterations", 0), ("iterations", 10**9), ("lanes", 0),
     ("lanes", 10**6), ("salt", "00"), ("nonce", "zz" * 12), ("wrapped", "00" * 47), ("memory_kib", "much")],
)  # fmt: skip
def test_hostile_parameters_are_refused_before_any_work(slot: bytes, field: str, value: object) -> None:
    forged = msgspec.json.encode({**msgspec.json.decode(slot), field: value})
    with pytest.raises(ObjectDamaged):
        slots.open_slots({"a": forged}, "correct horse", ID)


@pytest.mark.parametrize(("field", "value"), [("version", 2), ("kdf", "scrypt")])
def test_a_slot_of_a_later_version_is_told(slot: bytes, field: str, value: object) -> None:
    later = msgspec.json.encode({**msgspec.json.decode(slot), field: value})
    with pytest.raises(FormatUnsupported):
        slots.open_slots({"a": later}, "correct horse", ID)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"x" * 5000])
def test_a_damaged_slot_beside_a_good_one_does_no_harm(master: MasterKey, slot: bytes, damage: bytes) -> None:
    with pytest.raises(ObjectDamaged):
        slots.open_slots({"a": damage}, "correct horse", ID)
    assert slots.open_slots({"a": damage, "b": slot}, "correct horse", ID) == master


def test_parameters_of_a_slot_are_authenticated(master: MasterKey, slot: bytes) -> None:
    forged = msgspec.json.encode({**msgspec.json.decode(slot), "memory_kib": LEAST + 4})
    with pytest.raises(WrongPassphrase):
        slots.open_slots({"a": forged}, "correct horse", ID)


def test_too_little_memory_is_refused_when_wrapping(master: MasterKey) -> None:
    with pytest.raises(ValueError, match="64 MiB"):
        slots.wrap_master(master, "p", ID, memory_kib=1024)


def test_a_slot_that_asks_for_much_is_tried_last(master: MasterKey, slot: bytes) -> None:
    """A repository host may add one of 4 GiB; a passphrase that opens a cheaper one never gets so far."""
    parsed = msgspec.json.decode(slot, type=slots.KeySlot)
    dear = msgspec.json.encode(msgspec.structs.replace(parsed, memory_kib=slots.MOST_MEMORY_KIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert slots.open_slots({"a": dear, "b": slot}, "correct horse", ID) == master
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "it took the memory of the other"
