"""The manager's configuration: where it is found, what it refuses, what it never shows."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import ConfigInvalid, ConfigNotFound, ConfigUnreadable, UnknownConfigKey
from holdfast_manager import places
from holdfast_manager.settings import DatabaseSettings, LogLevel, ManagerSettings, without_secret

EXAMPLE = Path(__file__).parents[2] / "configs" / "manager.toml"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration but the test's own, for an ordinary user."""
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.delenv("HOLDFAST_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(places, "SYSTEM_CONFIG", tmp_path / "etc" / "manager.toml")


def test_the_example_holds_every_key_with_its_default() -> None:
    assert ManagerSettings.load(EXAMPLE) == ManagerSettings()
    shown = tomllib.loads(EXAMPLE.read_text().replace("#data_dir", "data_dir"))
    known = msgspec.to_builtins(ManagerSettings())
    assert _keys(shown) == _keys(known)


def test_the_nearest_configuration_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ManagerSettings.load() == ManagerSettings()
    levels = {"etc/manager.toml": "error", ".config/holdfast/manager.toml": "warning", "env.toml": "debug"}
    for name, level in levels.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'log_level = "{level}"')
        if name == "env.toml":
            monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / name))
        assert ManagerSettings.load().log_level == level
    assert ManagerSettings.load(EXAMPLE).log_level is LogLevel.INFO
    monkeypatch.delenv("HOLDFAST_CONFIG")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ManagerSettings.load().log_level is LogLevel.ERROR  # root's home does not count


def test_a_file_that_was_named_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(ConfigNotFound, match=r"gone\.toml"):
        ManagerSettings.load()


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("log_levle = 'info'", UnknownConfigKey, "'log_levle'; did you mean 'log_level'"),
        ("[timing]\nhartbeat = 1", UnknownConfigKey, "'timing.hartbeat'; did you mean 'heartbeat'"),
        ("log_level = 'loud'", ConfigInvalid, "log_level"),
        ("data_dir = 'here'", ConfigInvalid, "absolute"),
        ("[timing]\npoll = 'soon'", ConfigInvalid, "timing.poll: 'soon' is not a duration"),
        ("[timing]\nlease_ttl = '2 s'", ConfigInvalid, "timing.lease_ttl"),
        ("[timing]\nheartbeat = '30 s'", ConfigInvalid, "timing.heartbeat: must be at most a third"),
        ("timing = 3", ConfigInvalid, "timing"),
        ("[timing", ConfigUnreadable, "m.toml"),
    ],
)
def test_mistakes_are_told_with_file_and_key(tmp_path: Path, text: str, error: type[Exception], says: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(text)
    with pytest.raises(error, match=says) as raised:
        ManagerSettings.load(file)
    assert "m.toml" in str(raised.value)


def test_durations_may_be_text_or_seconds(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text('[timing]\nlease_ttl = "2 min"\nheartbeat = 5\npoll = 0.5')
    timing = ManagerSettings.load(file).timing
    assert (timing.lease_ttl, timing.heartbeat, timing.poll) == (120.0, 5.0, 0.5)


def test_the_data_directory_follows_configuration_environment_and_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ManagerSettings().home == tmp_path / ".local/share/holdfast"
    monkeypatch.setenv("HOLDFAST_HOME", "/srv/hf")
    assert ManagerSettings().home == Path("/srv/hf")
    assert ManagerSettings(data_dir="~/x").home == tmp_path / "x"
    monkeypatch.delenv("HOLDFAST_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ManagerSettings().home == Path("/var/lib/holdfast")
    assert ManagerSettings().shown()["database"] == {"url": "sqlite:////var/lib/holdfast/catalog.db"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/holdfast/catalog.db", "sqlite:////var/lib/holdfast/catalog.db"),
        ("postgresql+psycopg://hf:geheim@db:5432/hf?x=1", "postgresql+psycopg://hf:***@db:5432/hf?x=1"),
        ("postgresql+psycopg://hf:ge@heim@db/hf", "postgresql+psycopg://hf:***@db/hf"),
        ("postgresql+psycopg:///hf?user=a&password=geheim", "postgresql+psycopg:///hf?user=a&password=***"),
        ("postgresql+psycopg://hf:g?eheim@db/hf?sslmode=require", "postgresql+psycopg://hf:***@db/hf?sslmode=require"),
        ("postgresql+psycopg:///hf?user=a@b&PASSWORD=geheim&x=1", "postgresql+psycopg:///hf?user=a@b&PASSWORD=***&x=1"),
        ("postgresql+psycopg://hf@db/hf", "postgresql+psycopg://hf@db/hf"),
    ],
)
def test_a_password_in_the_url_is_never_shown(url: str, shown: str) -> None:
    assert without_secret(url) == shown
    settings = ManagerSettings(database=DatabaseSettings(url))
    assert settings.shown()["database"]["url"] == shown
    assert "heim" not in repr(settings)
    assert settings.database.url == url


def _keys(table: dict[str, object], path: str = "") -> set[str]:
    names = set()
    for key, value in table.items():
        names |= _keys(value, f"{path}{key}.") if isinstance(value, dict) else {path + key}
    return names
