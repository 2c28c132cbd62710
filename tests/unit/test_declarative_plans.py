"""Declarative files: what is refused, what a plan shows, and that applying twice changes nothing the second time."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import ConfigError, HoldfastError
from holdfast_agent.model import strict
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.values import (
    BootSettings,
    CopySettings,
    GuestSettings,
    JobSpec,
    RepositoryGroup,
    TrafficRule,
)
from holdfast_manager.declarative.changes import Action, Change
from holdfast_manager.declarative.document import (
    AgentTable,
    NetworkTable,
    RepositoryTable,
    ServerTable,
    read_document,
)
from holdfast_manager.declarative.planning import Planner, apply_changes
from holdfast_manager.host import PluginHost
from holdfast_manager.retention.policy import RetentionPolicy
from holdfast_manager.schedules.schedule import JobSchedule
from holdfast_plugins.guest.ssh import SshOptions

EXAMPLE = Path(__file__).parents[2] / "configs" / "jobs.toml"
KEYS = KeyPair.generate()
PLUGINS = PluginHost.load()
SITE = """\
[servers.lab]
plugin = "images"
options.path = "/vms"
[servers.new]
plugin = "images"
options.path = "/new"
options.snapshot = "copy"
[agents.a]
endpoint = "a:7700"
public_key = "{key}"
proxy_slots = 5
[agents.b]
endpoint = "b:7700"
public_key = "{other}"
[repositories.main]
agent = "a"
path = "/backup"
slots = 9
[jobs.web]
server = "new"
repository = "main"
include = ["web*"]
bandwidth = "1 MiB"
[jobs.fresh]
server = "lab"
repository = "main"
include = ["*"]
""".format(key="A" * 40, other="B" * 40)


def plan(catalog: Catalog, file: Path, text: str = "", prune: bool = False) -> list[Change]:
    if text:
        file.write_text(text)
    return Planner(read_document(file), catalog, PLUGINS, KEYS).plan(prune)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "site.toml"


def test_a_plan_names_what_is_made_changed_and_left(stocked: Catalog, file: Path) -> None:
    changes = plan(stocked, file, SITE)
    assert [f"{each.action.value} {each.kind} {each.name}" for each in changes] == [
        "~ agent a", "= agent b", "= server lab", "+ server new", "~ repository main", "+ job fresh", "~ job web",
    ]  # fmt: skip
    shown = {each.name: [(d.key, d.old, d.new) for d in each.differences] for each in changes if each.differences}
    assert shown == {
        "a": [("proxy_slots", 2, 5)],
        "main": [("slots", 4, 9)],
        "web": [("bandwidth", None, 1 << 20), ("server", "lab", "new")],
    }
    assert stocked.jobs.get("web").server == "lab", "planning changes nothing"


def test_applying_twice_changes_nothing_the_second_time(stocked: Catalog, file: Path) -> None:
    apply_changes(plan(stocked, file, SITE))
    assert stocked.jobs.get("web").bandwidth_bytes_per_s == 1 << 20
    assert stocked.repositories.get("main").slots == 9
    assert {each.action for each in plan(stocked, file)} == {Action.UNCHANGED}


def test_nothing_is_removed_without_prune_and_only_kinds_that_the_file_speaks_of(stocked: Catalog, file: Path) -> None:
    text = '[jobs.other]\nserver = "lab"\nrepository = "main"\ninclude = ["*"]\n'
    assert [each.action for each in plan(stocked, file, text)] == [Action.CREATE]
    pruned = plan(stocked, file, text, prune=True)
    assert [(each.action, each.kind, each.name) for each in pruned] == [
        (Action.CREATE, "job", "other"), (Action.REMOVE, "job", "web"),
    ]  # fmt: skip
    apply_changes(pruned)
    assert [spec.name for spec in stocked.jobs.list()] == ["other"]
    assert [agent.name for agent in stocked.agents.list()] == ["a", "b"]


def test_what_is_still_used_is_not_pruned(stocked: Catalog, file: Path) -> None:
    with pytest.raises(InUse, match="server 'lab' is used by job web, which the file does not remove"):
        plan(stocked, file, "[servers]\n", prune=True)


def test_a_changed_secret_is_seen_and_never_shown(stocked: Catalog, file: Path) -> None:
    secret = file.parent / "lab.env"
    secret.touch(0o600)
    secret.write_text("password=first one\n")
    text = '[servers.lab]\nplugin = "images"\noptions.path = "/vms"\nsecret_file = "lab.env"\n'
    changes = plan(stocked, file, text)
    assert [each.key for each in changes[0].differences] == ["secret"]
    assert "first one" not in str(changes[0].shown())
    apply_changes(changes)
    assert stocked.servers.secret("lab") == {"password": "first one"}
    assert plan(stocked, file)[0].action is Action.UNCHANGED
    secret.write_text("password=second\n")
    assert plan(stocked, file)[0].action is Action.CHANGE


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[servers.lab]", "[severs.lab]", "unknown key 'severs'; did you mean 'servers'?"),
        (
            'plugin = "images"\noptions.path',
            'plugn = "images"\noptions.path',
            "servers.lab: unknown key 'plugn'; did you mean 'plugin'?",
        ),
        ("options.path", "options.pth", "servers.lab.options: unknown key 'pth'; did you mean 'path'?"),
        ("proxy_slots = 5", "proxy_slots = 0", "agents.a: proxy_slots: Expected a whole number >= 1"),
        ("include", "inclde", "jobs.web: unknown key 'inclde'; did you mean 'include'?"),
        ("[jobs.web]", "[jobs.web]\nname = 'x'", "jobs.web: name: the name stands in the heading"),
        ("[jobs.web]", "[jobs.'no good']", "jobs.no good: a name is 1 to 64"),
        ('server = "new"', 'server = "nwe"', "jobs.web.server: there is no server named 'nwe'. Did you mean 'new'?"),
        ('agent = "a"', 'agent = "z"', "repositories.main.agent: there is no agent named 'z'"),
        (
            "slots = 9",
            "slots = 9\nencryption = false",
            "repositories.main.encryption: whether a repository is encrypted",
        ),
        ("1 MiB", "1 furlong", "jobs.web: bandwidth: '1 furlong' is not a size"),
        ("[jobs.web]", "[jobs.web]\nsnapshot.method = 'magic'", "jobs.web.snapshot: method"),
        ("[jobs.web]", "[jobs.web]\nguest.processor = 'script'", "did you mean 'scripts'?"),
        ("[jobs.fresh]", "[repositories.x]\nagent = 'a'\npath = '/x'\n[jobs.fresh]", "repositories.x.passphrase_file"),
        ("[jobs.fresh]", "[jobs.fresh", "site.toml: "),
        ("options.path", "secret_file = 'none.env'\noptions.path", "none.env does not exist"),
    ],
)
def test_a_wrong_file_changes_nothing_and_says_where(
    stocked: Catalog, file: Path, old: str, new: str, told: str
) -> None:
    assert old in SITE
    with pytest.raises(HoldfastError, match=re.escape(told)) as caught:
        plan(stocked, file, SITE.replace(old, new, 1))
    assert isinstance(caught.value, ConfigError) or caught.value.exit_code == 10
    assert [spec.name for spec in stocked.jobs.list()] == ["web"]


RULES = """\
[repositories.main]
agent = "a"
path = "/backup"
write_limit = "2 MiB"
[traffic_rules.wan]
target = ["10.8.0.0/16"]
bandwidth = "5 MiB"
[network]
preferred = ["10.0.0.0/8"]
"""


def test_traffic_rules_limits_and_networks_are_planned_like_all_else(stocked: Catalog, file: Path) -> None:
    stocked.traffic_rules.add(TrafficRule(name="old", streams=2))
    changes = plan(stocked, file, RULES, prune=True)
    assert [f"{each.action.value} {each.kind} {each.name}" for each in changes] == [
        "~ repository main", "+ traffic rule wan", "~ network preferences", "- traffic rule old",
    ]  # fmt: skip
    apply_changes(changes)
    assert stocked.repositories.get("main").write_limit_bytes_per_s == 2 << 20
    assert [(rule.name, rule.bandwidth_bytes_per_s) for rule in stocked.traffic_rules.list()] == [("wan", 5 << 20)]
    assert stocked.traffic_rules.preferred() == ("10.0.0.0/8",)
    assert {each.action for each in plan(stocked, file, prune=True)} == {Action.UNCHANGED}
    apply_changes(plan(stocked, file, "[network]\n"))
    assert stocked.traffic_rules.preferred() == ()
    assert len(stocked.traffic_rules.list()) == 1, "the file no longer speaks of rules"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("10.8.0.0/16", "10.8.0.1/16", "traffic_rules.wan: "),
        ("bandwidth", "bandwith", "did you mean 'bandwidth'?"),
        ('"5 MiB"', '"5 B"', "bandwidth: Expected a whole number >= 1024"),
        ('"10.0.0.0/8"', '"office"', "network: 'office' does not appear to be an IPv4 or IPv6 network"),
        ('"2 MiB"', '"much"', "write_limit: 'much' is not a size"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place(stocked: Catalog, file: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        plan(stocked, file, RULES.replace(old, new, 1))
    assert stocked.traffic_rules.list() == ()


# --- the commented example --------------------------------------------------------------------------------------------


GROUPS = """\
[repository_groups.pool]
members = ["second", "main"]
free_floor = "5 GiB"
[jobs.web]
server = "lab"
repository = "pool"
include = ["web"]
"""


def test_groups_are_made_before_the_jobs_that_use_them_and_go_after_them(stocked: Catalog, file: Path) -> None:
    second = msgspec.structs.replace(stocked.repositories.get("main"), name="second", path="/second")
    stocked.repositories.add(second)
    made = plan(stocked, file, GROUPS)
    assert [f"{each.action.value} {each.kind} {each.name}" for each in made] == ["+ repository group pool", "~ job web"]
    apply_changes(made)
    assert stocked.groups.get("pool").members == ("main", "second")
    assert [each.action for each in plan(stocked, file)] == [Action.UNCHANGED, Action.UNCHANGED]
    changed = plan(stocked, file, GROUPS.replace('"second", ', ""))
    assert [each.key for each in changed[0].differences] == ["members"]
    with pytest.raises(ConfigError, match=r"repository_groups\.pool\.members.*'main'"):
        plan(stocked, file, GROUPS.replace('"second"', '"mian"'))
    with pytest.raises(InUse, match="job web"):
        plan(stocked, file, "[repository_groups]\n", prune=True)
    gone = plan(stocked, file, "[repository_groups]\n[jobs]\n", prune=True)
    assert [f"{each.action.value} {each.kind} {each.name}" for each in gone] == ["- job web", "- repository group pool"]
    apply_changes(gone)
    assert stocked.groups.list() == ()


def uncommented() -> str:
    """The example with every key that stands in a comment as if it were set."""
    return re.sub(r"(?m)^# (?=\[[a-z._]+\]$|[a-z_]+ = )", "", EXAMPLE.read_text(encoding="utf-8"))


def test_the_example_is_valid_as_it_stands(tmp_path: Path) -> None:
    document = read_document(EXAMPLE)
    assert document.jobs["nightly"] == JobSpec(name="nightly", server="lab", include=("*",), repository="main")


def test_the_example_names_every_key_with_its_default(tmp_path: Path) -> None:
    table = tomllib.loads(uncommented())
    for struct, found in (
        (ServerTable, table["servers"]["lab"]),
        (AgentTable, table["agents"]["local"]),
        (RepositoryTable, table["repositories"]["main"]),
        (RepositoryGroup, table["repository_groups"]["pool"] | {"name": "pool"}),
        (JobSpec, table["jobs"]["nightly"] | table["jobs"]["offsite"] | {"name": "nightly"}),
        (CopySettings, table["jobs"]["offsite"]["copy"]),
        (BootSettings, table["jobs"]["nightly"]["verify_boot"]),
        (GuestSettings, table["jobs"]["nightly"]["guest"]),
        (RetentionPolicy, table["jobs"]["nightly"]["retention"]),
        (JobSchedule, table["jobs"]["nightly"]["schedule"]),
        (TrafficRule, table["traffic_rules"]["wan"] | {"name": "wan"}),
        (NetworkTable, table["network"]),
    ):
        assert set(found) == set(struct.__struct_encode_fields__), struct.__name__
    file = tmp_path / "all.toml"
    exclusive = ('after = "other"', 'command = "pg_isready -q"')  # each excludes another key of the example
    file.write_text(re.sub("|".join(map(re.escape, exclusive)), "", uncommented()))
    pool = RepositoryGroup(name="pool", members=("main",))
    assert read_document(file).repository_groups == {"pool": pool}, "what is commented out is the default"
    assert read_document(file).jobs["offsite"] == JobSpec(
        name="offsite",
        repository="far",
        copy=CopySettings(origin="main"),
        schedule=JobSchedule(immediate=True),
    )
    job = read_document(file).jobs["nightly"]
    plain = read_document(EXAMPLE).jobs["nightly"]
    shown = {name for name in JobSpec.__struct_fields__ if getattr(job, name) != getattr(plain, name)}
    set_apart = {"bandwidth_bytes_per_s", "snapshot", "guest", "schedule", "max_tasks", "verify_boot"}
    assert shown == set_apart, "what is commented out is the default"
    defaults = JobSchedule(start=("daily 22:00",), windows=("22:00-06:00",))
    assert job.schedule == defaults, "what is commented out is the default"
    PLUGINS.snapshot_options("images", job.snapshot, "the example")
    assert job.guest is not None
    PLUGINS.guest_processor(job.guest.processor, job.guest.options, "the example")
    assert msgspec.to_builtins(read_document(file).servers["lab"])["options"].keys() == {
        "path",
        "snapshot",
        "snapshot_dir",
    }


def test_the_example_names_the_options_of_the_other_guest_processors_with_their_defaults() -> None:
    options = tomllib.loads("".join(re.findall(r"(?m)^#   ([a-z_]+ = .*\n)", EXAMPLE.read_text(encoding="utf-8"))))
    assert set(options) == set(SshOptions.__struct_encode_fields__)
    shown, defaults = strict.convert(options, SshOptions, "the example"), SshOptions()
    assert (shown.timeout_s, shown.freeze_limit_s) == (defaults.timeout_s, defaults.freeze_limit_s)
    assert msgspec.structs.replace(shown, timeout=0.5, freeze_limit=1) == SshOptions(timeout=0.5, freeze_limit=1)
