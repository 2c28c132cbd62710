"""The key hierarchy of a repository: one master key, and what is derived from it for each purpose.

The manager holds the master key; movers get :class:`DataKeys` for one task; the repository host gets nothing.
"""

from __future__ import annotations

import enum
import hmac
import secrets

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast_agent.errors import WrongKey
from holdfast_agent.model.ids import BlockId

from .xaes import Buffer

KEY_BYTES = 32
REPOSITORY_ID_BYTES = 16
FIRST_EPOCH = 1
MOST_EPOCHS = 1000
"""Deriving the keys of all of them takes some ten milliseconds."""


class Cipher(enum.IntEnum):
    """How payloads are sealed; the value stands in each record's header."""

    NONE = 0
    XAES_256_GCM = 1


class MasterKey:
    """32 secret bytes that everything in one repository hangs on. ``reveal()`` is the only way to them."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise WrongKey(name="the repository", reason=f"a master key has {KEY_BYTES} bytes, not {len(secret)}")
        self._secret = bytes(secret)

    @classmethod
    def generate(cls) -> MasterKey:
        return cls(secrets.token_bytes(KEY_BYTES))

    def reveal(self) -> bytes:
        return self._secret

    @property
    def public(self) -> bool:
        """Whether this is the well-known key of repositories that make no claim of secrecy."""
        return hmac.compare_digest(self._secret, _PUBLIC_SECRET)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MasterKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        raise TypeError("a master key is not hashable")

    def __repr__(self) -> str:
        return "MasterKey(public)" if self.public else "MasterKey(…)"


_PUBLIC_SECRET = blake3(b"holdfast repository without encryption").digest()
PUBLIC = MasterKey(_PUBLIC_SECRET)
"""Master key of every unencrypted repository: the same code runs, records are stored with cipher ``NONE``."""


class EpochKey(msgspec.Struct, frozen=True, array_like=True):
    """What opens records of one class that were sealed at one epoch."""

    epoch: int
    key: bytes

    def __repr__(self) -> str:
        return f"EpochKey(epoch={self.epoch})"


class DataKeys(msgspec.Struct, frozen=True):
    """What seals and opens one class of records; travels to movers over the control channel.

    ``repository_id`` is 32 hex digits. ``verify_decode``: decode each compressed block again and compare before
    it is sealed, which finds a faulty codec or memory while the source is still there. ``older``: keys of epochs
    before ``epoch``, for who opens records; who only seals gets none.
    """

    repository_id: str
    id_key: bytes
    enc_key: bytes
    epoch: int
    cipher: int
    verify_decode: bool = True
    older: tuple[EpochKey, ...] = ()

    def key_of(self, epoch: int) -> bytes | None:
        """What opens records that were sealed at ``epoch``; None if it is not among these keys."""
        if epoch == self.epoch:
            return self.enc_key
        return next((older.key for older in self.older if older.epoch == epoch), None)

    def block_id(self, plain: Buffer) -> BlockId:
        """Keyed BLAKE3 of a whole block (the last of a disk padded with zeros). Releases the GIL."""
        return BlockId(blake3(plain, key=self.id_key).digest())

    def __repr__(self) -> str:
        return f"DataKeys(repository_id={self.repository_id!r}, epoch={self.epoch}, cipher={self.cipher})"


class RepositoryKeys(msgspec.Struct, frozen=True):
    """All keys of one repository at one epoch. Held by the manager, in memory only."""

    repository_id: str
    epoch: int
    cipher: Cipher
    id_key: bytes
    enc_key: bytes
    meta_id_key: bytes
    meta_key: bytes
    root_key: bytes
    older_data: tuple[EpochKey, ...] = ()
    older_blobs: tuple[EpochKey, ...] = ()

    @classmethod
    def derive(cls, master: MasterKey, repository_id: str, epoch: int = FIRST_EPOCH) -> RepositoryKeys:
        """Derive by HKDF-SHA256, salted with the repository's id.

        Ids and roots stay the same through all epochs, so that deduplication and old points survive a change of
        the epoch; encryption keys change with it, and those of all epochs before are derived too. Raises
        :class:`WrongKey` for an epoch out of bounds.
        """
        if not FIRST_EPOCH <= epoch <= MOST_EPOCHS:
            raise WrongKey(name="the repository", reason=f"{epoch} is no key epoch (1 to {MOST_EPOCHS})")
        salt = repository_id_bytes(repository_id)
        before = range(FIRST_EPOCH, epoch)

        def key(purpose: str) -> bytes:
            info = f"holdfast 1 {purpose}".encode()
            return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(master.reveal())

        return cls(
            repository_id=repository_id,
            epoch=epoch,
            cipher=Cipher.NONE if master.public else Cipher.XAES_256_GCM,
            id_key=key("data id"),
            enc_key=key(f"data records {epoch}"),
            meta_id_key=key("blob id"),
            meta_key=key(f"blob records {epoch}"),
            root_key=key("points"),
            older_data=tuple(EpochKey(each, key(f"data records {each}")) for each in before),
            older_blobs=tuple(EpochKey(each, key(f"blob records {each}")) for each in before),
        )

    def data_keys(self, *, verify_decode: bool = True) -> DataKeys:
        """For sealing records of disk blocks: what source movers get. Opens those of the present epoch only."""
        return DataKeys(self.repository_id, self.id_key, self.enc_key, self.epoch, self.cipher, verify_decode)

    def opening_keys(self) -> DataKeys:
        """For opening records of disk blocks, of all epochs: what writers and checkers get."""
        return msgspec.structs.replace(self.data_keys(), older=self.older_data)

    def blob_keys(self) -> DataKeys:
        """For blobs (VM configurations), of all epochs; never leaves the manager."""
        return DataKeys(
            self.repository_id, self.meta_id_key, self.meta_key, self.epoch, self.cipher, older=self.older_blobs
        )

    def __repr__(self) -> str:
        return f"RepositoryKeys(repository_id={self.repository_id!r}, epoch={self.epoch}, cipher={self.cipher.name})"


def new_repository_id() -> str:
    """A fresh repository id: 128 random bits as 32 hex digits."""
    return secrets.token_hex(REPOSITORY_ID_BYTES)


def repository_id_bytes(repository_id: str) -> bytes:
    """The 16 bytes of a repository id. Raises :class:`WrongKey` if ``repository_id`` is not 32 hex digits."""
    try:
        raw = bytes.fromhex(repository_id)
    except ValueError:
        raw = b""
    if len(raw) != REPOSITORY_ID_BYTES or raw.hex() != repository_id:
        raise WrongKey(name="the repository", reason=f"{repository_id!r} is not a repository id (32 hex digits)")
    return raw
