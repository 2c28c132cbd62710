"""Key slots: the master key wrapped under a passphrase, several slots to a repository.

A slot is canonical JSON that the repository host keeps and can read; what it can do with it is guess. A new
passphrase is a new slot; it does not take a leaked master key back.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, WrongPassphrase
from holdfast_agent.model.strict import NOT_DECODED

from .keys import PUBLIC, MasterKey

DEFAULT_MEMORY_KIB = 256 * 1024
LEAST_MEMORY_KIB = 64 * 1024
MOST_MEMORY_KIB = 4 * 1024 * 1024
MOST_SLOT_BYTES = 4096
_ITERATIONS = 3
_LANES = 4
_ARGON2ID = "argon2id"
_PUBLIC = "public"


class KeySlot(msgspec.Struct, frozen=True):
    """A slot as it is stored. Byte strings are hex; ``kdf`` is "argon2id", or "public" for no encryption."""

    repository_id: str
    kdf: str
    salt: str = ""
    memory_kib: int = 0
    iterations: int = 0
    lanes: int = 0
    nonce: str = ""
    wrapped: str = ""
    version: int = 1


def wrap_master(
    master: MasterKey, passphrase: str, repository_id: str, *, memory_kib: int = DEFAULT_MEMORY_KIB
) -> bytes:
    """A new slot for ``passphrase``, as bytes for ``KeySlots.add``.

    Takes about half a second and ``memory_kib`` (64 MiB … 4 GiB) of memory, on purpose.
    """
    if not LEAST_MEMORY_KIB <= memory_kib <= MOST_MEMORY_KIB:
        raise ValueError("argon2id takes between 64 MiB and 4 GiB here")
    slot = KeySlot(
        repository_id=repository_id,
        kdf=_ARGON2ID,
        salt=secrets.token_hex(16),
        memory_kib=memory_kib,
        iterations=_ITERATIONS,
        lanes=_LANES,
        nonce=secrets.token_hex(12),
    )
    sealed = AESGCM(_stretch(slot, passphrase)).encrypt(bytes.fromhex(slot.nonce), master.reveal(), _associated(slot))
    return _canonical(msgspec.structs.replace(slot, wrapped=sealed.hex()))


def public_slot(repository_id: str) -> bytes:
    """The slot of an unencrypted repository."""
    return _canonical(KeySlot(repository_id=repository_id, kdf=_PUBLIC))


def is_public(slot: bytes) -> bool:
    """Whether ``slot`` says that the repository is not encrypted.

    A claim of the repository host: who expects encryption must remember it, and refuse such a slot.
    """
    return _decode("slot", slot).kdf == _PUBLIC


class SlotFacts(msgspec.Struct, frozen=True):
    """What a slot says of itself. ``kdf``: "argon2id" or "public"; ``memory_kib`` and ``iterations`` of argon2id."""

    name: str
    kdf: str
    memory_kib: int
    iterations: int


def slot_facts(name: str, raw: bytes) -> SlotFacts:
    """Raises :class:`ObjectDamaged` or :class:`FormatUnsupported`."""
    slot = _decode(name, raw)
    return SlotFacts(name, slot.kdf, slot.memory_kib, slot.iterations)


def slots_opened(slots: Mapping[str, bytes], passphrase: str, repository_id: str) -> list[str]:
    """Names of all slots that ``passphrase`` opens, sorted. Tries every one."""
    opened = []
    for name, raw in sorted(slots.items()):
        with contextlib.suppress(WrongPassphrase, ObjectDamaged, FormatUnsupported):
            open_slots({name: raw}, passphrase, repository_id)
            opened.append(name)
    return opened


def open_slots(slots: Mapping[str, bytes], passphrase: str | None, repository_id: str) -> MasterKey:
    """Try every slot, cheapest first; give the master key of the first that opens.

    ``passphrase`` None opens public slots only, and a passphrase never opens a public slot. Raises
    :class:`WrongPassphrase` if none opens, and the first damage found if no slot could be tried at all.
    """
    problems: list[ObjectDamaged | FormatUnsupported] = []
    usable: list[KeySlot] = []
    for name, raw in sorted(slots.items()):
        try:
            slot = _decode(name, raw)
        except (ObjectDamaged, FormatUnsupported) as error:
            problems.append(error)
            continue
        if slot.repository_id == repository_id:
            usable.append(slot)
        else:
            problems.append(_damaged(name, "it belongs to another repository"))
    for slot in sorted(usable, key=lambda slot: slot.memory_kib * slot.iterations):
        master = _try(slot, passphrase)
        if master is not None:
            return master
    if problems and not usable:
        raise problems[0]
    raise WrongPassphrase(name=repository_id)


def _try(slot: KeySlot, passphrase: str | None) -> MasterKey | None:
    if passphrase is None or slot.kdf == _PUBLIC:
        return PUBLIC if passphrase is None and slot.kdf == _PUBLIC else None
    try:
        plain = AESGCM(_stretch(slot, passphrase)).decrypt(
            bytes.fromhex(slot.nonce), bytes.fromhex(slot.wrapped), _associated(slot)
        )
    except InvalidTag:
        return None
    return MasterKey(plain)


def _stretch(slot: KeySlot, passphrase: str) -> bytes:
    """Raises :class:`FormatUnsupported` where there is not as much memory as the slot asks for."""
    stretcher = Argon2id(
        salt=bytes.fromhex(slot.salt),
        length=32,
        iterations=slot.iterations,
        lanes=slot.lanes,
        memory_cost=slot.memory_kib,
    )
    try:
        return stretcher.derive(passphrase.encode())
    except MemoryError as error:
        raise FormatUnsupported(name="a key slot", feature=f"{slot.memory_kib >> 10} MiB of memory") from error


def _associated(slot: KeySlot) -> bytes:
    return _canonical(msgspec.structs.replace(slot, wrapped=""))


def _canonical(slot: KeySlot) -> bytes:
    return msgspec.json.encode(slot, order="sorted")


def _decode(name: str, raw: bytes) -> KeySlot:
    """Parse and bound a slot: a hostile host must not make us allocate or work without limit, nor too little."""
    where = f"keys/{name}"
    if len(raw) > MOST_SLOT_BYTES:
        raise _damaged(name, "it is too long")
    try:
        slot = msgspec.json.decode(raw, type=KeySlot)
    except NOT_DECODED as error:
        raise _damaged(name, str(error)) from error
    if slot.version != 1:
        raise FormatUnsupported(name=where, feature=f"key slots of version {slot.version}")
    if slot.kdf == _PUBLIC:
        return slot
    if slot.kdf != _ARGON2ID:
        raise FormatUnsupported(name=where, feature=f"the key derivation {slot.kdf!r}")
    if not LEAST_MEMORY_KIB <= slot.memory_kib <= MOST_MEMORY_KIB:
        raise _damaged(name, f"{slot.memory_kib} KiB for argon2id is out of bounds (64 MiB to 4 GiB)")
    if not 1 <= slot.iterations <= 64 or not 1 <= slot.lanes <= 64:
        raise _damaged(name, "its argon2id parameters are out of bounds")
    for text, length in ((slot.salt, 16), (slot.nonce, 12), (slot.wrapped, 48)):
        if not _is_hex(text, length):
            raise _damaged(name, "a field has the wrong length or is not hexadecimal")
    return slot


def _is_hex(text: str, length: int) -> bool:
    return len(text) == 2 * length and all(c in "0123456789abcdef" for c in text)


def _damaged(name: str, reason: str) -> ObjectDamaged:
    return ObjectDamaged(name=f"keys/{name}", offset_bytes=0, reason=reason)
