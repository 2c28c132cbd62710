"""Users of a shared manager: their roles, and what they prove themselves by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
from sqlalchemy import Connection, select

from holdfast_agent.errors import AlreadyExists

from ..rights import passwords, tokens
from ..rights.errors import AccessRefused
from ..rights.values import TokenEntry, UserEntry
from .again import runs_again
from .database import Database
from .rights_tables import user_tokens, users
from .rows import NamedRows, columns_of, from_row, insert, require

_KIND = "user"
_UNKNOWN = "the name or the password is wrong, or the user is disabled"


@runs_again
class Users:
    """The tables of users and their tokens. Thread-safe; every method is one transaction.

    The methods that let somebody in (``login``, ``by_token``) raise ``AccessRefused`` for anybody who is
    unknown, or disabled, without saying which. They read the database each time, so that a change counts at once.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        has_password = (users.c.password != "").label("has_password")
        self._rows = NamedRows(users, UserEntry, _KIND, (has_password,))

    def add(self, entry: UserEntry, password: str | None = None) -> UserEntry:
        """Add a user; ``created`` is set here. Returns what was written.

        Raises ``AlreadyExists`` for the name or the key, ``ConfigInvalid``, ``UsageError`` for a bad password.
        """
        made = msgspec.structs.replace(entry, created=self._clock(), has_password=password is not None)
        kept = _hashed(password)
        with self._database.writing() as connection:
            self._require_free_key(connection, made)
            self._rows.add(connection, made, password=kept or "")
        return made

    def get(self, name: str) -> UserEntry:
        """Raises ``NotFound`` with the nearest name."""
        with self._database.reading() as connection:
            return self._rows.get(connection, name)

    def list(self) -> tuple[UserEntry, ...]:
        """All users, by name."""
        with self._database.reading() as connection:
            return self._rows.list(connection)

    def update(self, entry: UserEntry, password: str | None = None) -> None:
        """Replace roles, key and whether the user is enabled; the password too, unless None ("": takes it away).

        Raises as ``add``, and ``NotFound``.
        """
        kept = _hashed(password)
        with self._database.writing() as connection:
            require(connection, users, _KIND, entry.name)
            self._require_free_key(connection, entry)
            self._rows.update(connection, entry, **({} if kept is None else {"password": kept}))

    def remove(self, name: str) -> None:
        """Remove a user with all tokens. Raises ``NotFound``. What the audit log tells of the user stays."""
        with self._database.writing() as connection:
            self._rows.remove(connection, name)

    def login(self, name: str, password: str) -> UserEntry:
        """The user who has this password. Takes as long for a name that nobody has: about a tenth of a second.

        To be called for a few at a time only (``passwords.matches``), and not without end for one peer.
        """
        with self._database.reading() as connection:
            row = connection.execute(select(users.c.password).where(users.c.name == name)).first()
        if not passwords.matches(password, "" if row is None else row.password):
            raise AccessRefused(who=name[:64], reason=_UNKNOWN)
        return self._enabled(name, _UNKNOWN)

    def mark(self, name: str) -> str:
        """Another one as soon as the user has another password, or another user has the name; "" of nobody."""
        query = select(users.c.created, users.c.password).where(users.c.name == name)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return "" if row is None else hashlib.sha256(f"{row.created} {row.password}".encode()).hexdigest()

    def by_token(self, token: str) -> UserEntry:
        """The user whom a token belongs to that has not expired."""
        query = select(user_tokens.c.user, user_tokens.c.expires).where(user_tokens.c.digest == tokens.digest(token))
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        reason = "the token is unknown or has expired, or its user is disabled"
        if row is None or (row.expires is not None and row.expires <= self._clock()):
            raise AccessRefused(who="a token's bearer", reason=reason)
        return self._enabled(row.user, reason)

    def add_token(self, name: str, label: str = "", expires: float | None = None) -> tuple[TokenEntry, str]:
        """Make a token for a user; it is told here and never again. ``expires``: Unix seconds. Raises ``NotFound``."""
        token = tokens.new_token()
        row = {"user": name, "label": label, "created": self._clock(), "expires": expires}
        with self._database.writing() as connection:
            require(connection, users, _KIND, name)
            number = insert(connection, user_tokens, {**row, "digest": tokens.digest(token)})
        return msgspec.convert({**row, "id": number}, TokenEntry), token

    def tokens(self, name: str | None = None) -> tuple[TokenEntry, ...]:
        """Those of a user, or all, in the order in which they were made."""
        query = select(*columns_of(user_tokens, TokenEntry)).order_by(user_tokens.c.id)
        if name is not None:
            query = query.where(user_tokens.c.user == name)
        with self._database.reading() as connection:
            return tuple(from_row(row, TokenEntry) for row in connection.execute(query))

    def revoke_tokens(self, name: str) -> int:
        """Make all tokens of a user worthless; returns how many there were. Raises ``NotFound``."""
        with self._database.writing() as connection:
            require(connection, users, _KIND, name)
            return connection.execute(user_tokens.delete().where(user_tokens.c.user == name)).rowcount

    def _enabled(self, name: str, reason: str) -> UserEntry:
        found = {entry.name: entry for entry in self.list()}.get(name)
        if found is None or not found.enabled:
            raise AccessRefused(who=name[:64], reason=reason)
        return found

    def _require_free_key(self, connection: Connection, entry: UserEntry) -> None:
        if entry.public_key is None:
            return
        query = select(users.c.name).where(users.c.public_key == entry.public_key, users.c.name != entry.name)
        if connection.execute(query).first() is not None:
            raise AlreadyExists(kind="user with the key", name=entry.public_key)


def _hashed(password: str | None) -> str | None:
    return passwords.hashed(passwords.check_new(password)) if password else password
