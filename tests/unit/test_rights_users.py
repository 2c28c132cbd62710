"""Users: how they are known, and that nobody else is."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from conftest import Clock
from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import AlreadyExists, ConfigInvalid, NotFound, UsageError
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.rights_tables import user_tokens, users
from holdfast_manager.rights import passwords
from holdfast_manager.rights.errors import AccessRefused
from holdfast_manager.rights.roles import Role
from holdfast_manager.rights.values import UserEntry

SECRET = "correct horse battery"  # noqa: S105 - of a user of this test


def entry(name: str = "alice", *roles: Role, key: str | None = None, enabled: bool = True) -> UserEntry:
    return UserEntry(name=name, roles=roles or (Role.OPERATOR,), public_key=key, enabled=enabled)


@pytest.mark.both_databases
def test_a_user_is_known_by_password_and_token_until_disabled(catalog: Catalog, clock: Clock) -> None:
    key = KeyPair.generate().public
    catalog.users.add(entry(key=key), SECRET)
    kept, token = catalog.users.add_token("alice", "dashboard", clock.now + 10)
    ways = (
        lambda: catalog.users.login("alice", SECRET),
        lambda: catalog.users.by_token(token),
    )
    alice = catalog.users.get("alice")
    assert alice.has_password
    assert alice.created == clock.now
    assert all(way() == alice for way in ways)
    assert catalog.users.tokens("alice") == (kept,)
    catalog.users.update(entry(key=key, enabled=False))
    for way in ways:
        with pytest.raises(AccessRefused):
            way()
    catalog.users.update(entry(key=key))
    clock.pass_time(10)
    with pytest.raises(AccessRefused, match="expired"):
        catalog.users.by_token(token)
    catalog.users.update(entry(key=KeyPair.generate().public), "")
    for way in ways:
        with pytest.raises(AccessRefused):
            way()
    catalog.users.remove("alice")
    assert catalog.users.list() == catalog.users.tokens() == ()


def test_wrong_proofs_are_refused_without_saying_why(catalog: Catalog) -> None:
    catalog.users.add(entry(), SECRET)
    catalog.users.add(entry("keyless"))
    told = set()
    for name, password in (("alice", "wrong"), ("nobody", SECRET), ("keyless", ""), ("alice", "")):
        with pytest.raises(AccessRefused) as refused:
            catalog.users.login(name, password)
        told.add(refused.value.fields["reason"])
    assert len(told) == 1
    for text in ("", "hfu1-", "hfu1-" + "A" * 43, "\udc80", "x" * 10_000):
        with pytest.raises(AccessRefused):
            catalog.users.by_token(text)


def test_only_hashes_are_kept(catalog: Catalog) -> None:
    catalog.users.add(entry(), SECRET)
    _, token = catalog.users.add_token("alice")
    with catalog.database.reading() as connection:
        rows = [*connection.execute(select(users)), *connection.execute(select(user_tokens))]
    assert SECRET not in str(rows)
    assert token not in str(rows)
    assert catalog.users.revoke_tokens("alice") == 1
    with pytest.raises(AccessRefused):
        catalog.users.by_token(token)


def test_what_makes_no_sense_is_refused(catalog: Catalog) -> None:
    key = KeyPair.generate().public
    catalog.users.add(entry(key=key))
    with pytest.raises(AlreadyExists):
        catalog.users.add(entry())
    with pytest.raises(AlreadyExists, match="key"):
        catalog.users.add(entry("bob", key=key))
    with pytest.raises(ConfigInvalid):
        catalog.users.add(entry("no spaces"))
    with pytest.raises(ConfigInvalid):
        catalog.users.add(UserEntry(name="bob", roles=()))
    with pytest.raises(UsageError, match="12 to 256") as short:
        catalog.users.add(entry("bob"), "short one")
    assert "short one" not in str(short.value)
    with pytest.raises(NotFound, match="'alice'"):
        catalog.users.update(entry("alicia"))
    assert [each.name for each in catalog.users.list()] == ["alice"]


def test_a_hash_that_was_damaged_matches_nothing() -> None:
    kept = passwords.hashed(SECRET)
    assert passwords.matches(SECRET, kept)
    assert not passwords.matches(SECRET + "x", kept)
    assert passwords.hashed(SECRET) != kept
    for damaged in ("", "scrypt", kept[:-4], kept.replace("$15$", "$99$"), kept.replace("scrypt", "plain")):
        assert not passwords.matches(SECRET, damaged)
