"""Keys, their files, and the list of authorised managers."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import AuthorisedKeys, KeyPair, check_public_key
from holdfast_agent.errors import ConfigInvalid, ConfigNotFound, UsageError


def test_a_key_pair_survives_its_file_and_hides_its_secret(tmp_path: Path) -> None:
    keys = KeyPair.generate()
    keys.save(tmp_path / "key")
    assert KeyPair.load(tmp_path / "key") == keys
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert keys.secret.decode() not in f"{keys!r}{keys}"
    assert len(keys.public) == 40
    assert keys.public[0].isalnum()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    KeyPair.generate().save(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(FileExistsError):
        KeyPair.generate().save(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    KeyPair.generate().save(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ConfigInvalid, match="chmod 600"):
        KeyPair.load(tmp_path / "key")


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, b'"' * 40])
def test_a_key_file_without_a_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigInvalid, match="does not hold a CURVE key"):
        KeyPair.load(path)


def test_an_absent_key_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigNotFound, match="init"):
        KeyPair.load(tmp_path / "key")


@pytest.mark.parametrize("text", ["", "x" * 39, "x" * 41, '"' * 40, "ä" * 40, "#" * 40, " " * 40])
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(UsageError, match="not a public key"):
        check_public_key(text)


def test_authorised_keys_follow_their_file(tmp_path: Path) -> None:
    first, second = KeyPair.generate().public, KeyPair.generate().public
    reader, writer = AuthorisedKeys(tmp_path / "keys"), AuthorisedKeys(tmp_path / "keys")
    assert dict(reader.current()) == {}
    assert writer.add(first, "vault")
    assert dict(reader.current()) == {first: "vault"}
    assert not writer.add(first, "vault")
    assert not writer.add(first, "")
    assert writer.add(second, "")
    assert set(reader.current()) == {first, second}
    assert writer.remove(first)
    assert not writer.remove(first)
    assert dict(reader.current()) == {second: ""}
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_no_key_looks_like_a_comment(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check_public_key("#" + "0" * 39)
    key = KeyPair.generate().public
    (tmp_path / "keys").write_text(f"# one\n#two\n\n  {key}   a name  \n")
    assert dict(AuthorisedKeys(tmp_path / "keys").current()) == {key: "a name"}


def test_a_file_that_is_not_understood_admits_nobody(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    AuthorisedKeys(path).add(KeyPair.generate().public, "")
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(ConfigInvalid, match="line 3"):
        AuthorisedKeys(path).current()


def test_names_stay_on_their_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="printable"):
        AuthorisedKeys(tmp_path / "keys").add(KeyPair.generate().public, "a\nb")
