"""The agent's configuration: strict, explained, and the same in the template and in the example."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_agent.config.load import DEFAULT_FILE, find_config, load_config
from holdfast_agent.config.settings import (
    AgentSettings,
    ControlSettings,
    DataSettings,
    ExportSettings,
    MetricsSettings,
    ProxySettings,
    RepositorySettings,
)
from holdfast_agent.config.template import render
from holdfast_agent.errors import ConfigInvalid, ConfigNotFound, ConfigUnreadable, UnknownConfigKey
from holdfast_agent.model.paths import is_below

EXAMPLE = Path(__file__).parents[2] / "configs" / "agent.toml"


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_the_template_and_gives_the_defaults() -> None:
    settings = AgentSettings(
        proxy=ProxySettings(paths=("/var/lib/libvirt/images",)), repository=RepositorySettings(paths=("/srv/holdfast",))
    )
    assert EXAMPLE.read_text(encoding="utf-8") == render(settings)
    assert load_config(EXAMPLE) == settings


def test_the_example_shows_every_key() -> None:
    shown = {line.lstrip("# ").partition(" =")[0] for line in EXAMPLE.read_text(encoding="utf-8").splitlines()}
    for table in (
            AgentSettings, ControlSettings, DataSettings, ExportSettings, MetricsSettings, ProxySettings,
            RepositorySettings,
        ):  # fmt: skip
        keys = set(table.__struct_fields__) - {"control", "data", "export", "metrics", "proxy", "repository"}
        assert keys <= shown


def test_a_rendered_file_gives_its_settings_back(tmp_path: Path) -> None:
    settings = AgentSettings(
        name='höst "x"\\',
        state_dir="/s",
        authorised_keys="/k",
        log_level="debug",
        control=ControlSettings(listen="tcp://[::1]:0"),
        data=DataSettings(listen_address="10.0.0.1", advertised_address="a.example", port_range=(1, 2)),
        export=ExportSettings(directory="/e", cache_bytes=1 << 30, tls_client_ca_file="/ca"),
        proxy=ProxySettings(paths=("/a", "/b c"), servers=("https://[::1]:9",), tls_ca_file="/ca", slots=3, workers=7),
    )
    assert load_config(_write(tmp_path, render(settings))) == settings


def test_search_order(tmp_path: Path) -> None:
    assert find_config(None, {}) == DEFAULT_FILE
    assert find_config(None, {"HOLDFAST_AGENT_CONFIG": "/x/y.toml"}) == Path("/x/y.toml")
    assert find_config(tmp_path / "z", {"HOLDFAST_AGENT_CONFIG": "/x/y.toml"}) == tmp_path / "z"


def test_an_absent_file_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigNotFound, match="holdfast-agent init"):
        load_config(tmp_path / "none.toml")


def test_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable, match="line 1"):
        load_config(_write(tmp_path, "name = \n"))


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("nmae = 'x'", "nmae", "name"),
        ("[proxy]\npaths = ['/a']\nslot = 1", "proxy.slot", "slots"),
        ("[control]\nlisten_on = 'x'", "control.listen_on", "listen"),
        ("[proxi]\npaths = ['/a']", "proxi", "proxy"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, key: str, nearest: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(UnknownConfigKey) as caught:
        load_config(path)
    assert caught.value.fields["key"] == key
    assert f"did you mean {nearest!r}" in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = 5", "name: Expected text"),
        ("log_level = 'loud'", "log_level must be one of debug"),
        ("state_dir = 'here'", "state_dir must be an absolute path"),
        ("authorised_keys = 'here'", "authorised_keys must be an absolute path"),
        ("[control]\nlisten = 'localhost:1'", "listen must be tcp://"),
        ("[control]\nlisten = 'tcp://x:70000'", "listen must be tcp://"),
        ("[control]\nlisten = 'tcp://x:1;tcp://y:2'", "listen must be tcp://"),
        ("[data]\nport_range = [9, 8]", "port_range must be"),
        ("[data]\nport_range = [0, 8]", "port_range must be"),
        ("[data]\nport_range = [1]", "data.port_range: Expected a list of length 2"),
        ("[proxy]\nslots = 1", "proxy.paths: it is missing, and has no default"),
        ("[proxy]\npaths = []", "paths must be a list of at least one"),
        ("[proxy]\npaths = ['images']", "'images' is not"),
        ("[proxy]\npaths = ['/a']\nservers = ['host']", "'host' is not SCHEME://HOST"),
        ("[proxy]\npaths = ['/a']\nservers = ['nbd://10.0.0.1/8']", "has host bits set"),
        ("[proxy]\npaths = ['/a']\ntls_ca_file = 'ca.pem'", "tls_ca_file must be an absolute path"),
        ("[proxy]\npaths = ['/a']\nslots = -1", "slots must be 0"),
        ("[proxy]\npaths = ['/a']\nworkers = 33", "workers must be 0"),
        ("[proxy]\npaths = ['/a']\nslots = true", "proxy.slots: Expected a whole number"),
        ("[repository]\npaths = ['/a']\nslots = 257", "slots must be 0"),
    ],
)
def test_bad_values(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_config(_write(tmp_path, text))
    assert says in str(caught.value)


def test_roles_come_from_the_tables_that_are_there() -> None:
    assert AgentSettings().roles == ()
    assert AgentSettings(repository=RepositorySettings(paths=("/r",))).roles == ("repository",)
    assert AgentSettings(repository=RepositorySettings(paths=("/r",))).disk_paths == ()


def test_told_address() -> None:
    assert DataSettings(listen_address="10.1.1.1").told_addresses == ("10.1.1.1",)
    assert DataSettings(listen_address="10.1.1.1", advertised_address="x").told_addresses == ("x",)
    assert DataSettings(advertised_address=("x", "y")).told_addresses == ("x", "y")
    assert DataSettings().told_addresses[0] not in ("", DataSettings().listen_address)
    with pytest.raises(ValueError, match="none of which is empty"):
        DataSettings(advertised_address=("x", ""))


def test_is_below_resolves_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "inner"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    (tmp_path / "way").symlink_to(inside)
    roots = [str(inside)]
    assert is_below(str(inside), roots)
    assert is_below(f"{inside}/not/yet", roots)
    assert is_below(f"{tmp_path}/way/x", roots)
    assert is_below(f"{inside}/x", [f"{tmp_path}/way"])
    assert not is_below(f"{inside}/link/x", roots)
    assert not is_below(f"{inside}/../inner", roots)
    assert not is_below(str(outside), roots)
    assert not is_below("in", roots)
    assert not is_below(f"{inside}/\0", roots)
    assert not is_below(str(inside), [])
    assert is_below("/etc/passwd", ["/"])
