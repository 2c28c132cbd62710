"""`holdfast network …`: traffic rules, and the networks that movers connect by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import format_rate
from holdfast_manager.catalog.rule_tables import rule_from_table, rule_to_table
from holdfast_manager.catalog.values import TrafficRule
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import facts, table
from holdfast_manager.traffic.rules import in_force

from .app import App, pass_app
from .commands import Group

F = TypeVar("F", bound=Callable[..., Any])
_LISTS = {"source": "source", "target": "target", "window": "windows"}
_OPTIONS = (
    click.option("--source", multiple=True, metavar="NETWORK", help="Where data comes from (repeatable)."),
    click.option("--target", multiple=True, metavar="NETWORK", help="Where data goes to (repeatable)."),
    click.option("--one-way/--both-ways", default=None, help="Only from source to target. Default: back as well."),
    click.option("--bandwidth", metavar="RATE", help='All tasks that it covers together, such as "50 MiB" (a second).'),
    click.option("--streams", type=int, help="Connections of each new task, 1 to 16, in the place of the job's."),
    click.option("--window", multiple=True, metavar="TIMES", help='When: "mon-fri 08:00-18:00" (repeatable).'),
    click.option("--time-zone", metavar="ZONE", help="In which the times are meant. Default: UTC."),
    click.option("--description", metavar="TEXT", help="For people."),
)  # fmt: skip


def rule_options(function: F) -> F:
    """Decorator: all options of a rule; the command takes them as ``**given``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.group(cls=Group)
def network() -> None:
    """The network: traffic rules, and by which networks movers connect."""


@network.command(examples=("holdfast network prefer 10.20.0.0/16 192.168.0.0/24", "holdfast network prefer --none"))
@click.argument("networks", nargs=-1, metavar="[NETWORK]…")
@click.option("--none", "nothing", is_flag=True, help="Prefer none.")
@pass_app
def prefer(app: App, networks: tuple[str, ...], nothing: bool) -> None:
    """Say by which networks movers connect, the most wanted first; replaces the list.

    Movers of two hosts connect by the first of these networks in which both have an address (`advertised_address` in
    the agents' configuration), by the next one when that fails, and else by any address.
    """
    if bool(networks) == nothing:
        raise UsageError(reason="name networks, or say --none")
    app.catalog.traffic_rules.prefer(networks)
    app.out.result({"preferred": networks}, f"Preferred networks: {', '.join(networks) or 'none'}")


@network.command(examples=("holdfast network show",))
@pass_app
def show(app: App) -> None:
    """The preferred networks and the traffic rules."""
    preferred, rules = app.catalog.traffic_rules.preferred(), app.catalog.traffic_rules.list()
    document = {"preferred": preferred, "rules": [_shown(each) for each in rules]}
    app.out.result(document, lambda: f"Preferred networks: {', '.join(preferred) or 'none'}\n\n{_table(rules)}")


@network.group(cls=Group)
def rule() -> None:
    """Traffic rules: how fast, and over how many streams, tasks may send between networks.

    What a rule allows is split equally between the tasks that it covers, of all jobs and sessions, and anew whenever
    one comes or goes. Of several rules the most restrictive counts. Tasks that run obey a change within seconds.
    """


@rule.command(
    examples=(
        "holdfast network rule add wan --target 10.8.0.0/16 --bandwidth '5 MiB' --window 'mon-fri 08:00-18:00' \\",
        "    --time-zone Europe/Berlin",
        "holdfast network rule add long-line --source 10.0.0.0/16 --target 10.8.0.0/16 --streams 5",
    )
)
@click.argument("name")
@click.option("--disabled", is_flag=True, help="Add it, but let it not hold yet.")
@rule_options
@pass_app
def add(app: App, /, name: str, disabled: bool, **given: Any) -> None:
    """Add a traffic rule."""
    added = rule_from_table({**_given_table(given), "name": name, "enabled": not disabled}, "options")
    app.catalog.traffic_rules.add(added)
    app.out.result({"rule": _shown(added)}, f"Added traffic rule {name}: {_summary(added)}")


@rule.command("list", examples=("holdfast network rule list",))
@pass_app
def list_(app: App) -> None:
    """All traffic rules, and whether each holds now."""
    rules = app.catalog.traffic_rules.list()
    app.out.result({"rules": [_shown(each) for each in rules]}, lambda: _table(rules))


@rule.command("show", examples=("holdfast network rule show wan",))
@click.argument("name")
@pass_app
def show_rule(app: App, name: str) -> None:
    """One traffic rule with all its settings."""
    shown = app.catalog.traffic_rules.get(name)
    app.out.result({"rule": _shown(shown)}, lambda: facts(_settings(shown)))


@rule.command(
    examples=(
        "holdfast network rule edit wan --bandwidth '10 MiB'",
        "holdfast network rule edit wan --reset window --reset streams",
    )
)
@click.argument("name")
@click.option("--reset", multiple=True, metavar="KEY", help="Put a setting back to its default (repeatable).")
@rule_options
@pass_app
def edit(app: App, /, name: str, reset: tuple[str, ...], **given: Any) -> None:
    """Change a traffic rule; what is not named stays. A list that is given replaces the whole list."""
    change = _given_table(given)
    if not change and not reset:
        raise UsageError(reason="nothing to change; see `holdfast network rule edit --help`")
    changed = rule_from_table(_without(rule_to_table(app.catalog.traffic_rules.get(name)), reset) | change, "options")
    app.catalog.traffic_rules.update(changed)
    app.out.result({"rule": _shown(changed)}, f"Changed traffic rule {name}: {_summary(changed)}")


@rule.command(examples=("holdfast network rule remove wan",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Remove a traffic rule."""
    app.catalog.traffic_rules.remove(name)
    app.out.result({"removed": name}, f"Removed traffic rule {name}")


@rule.command(examples=("holdfast network rule enable wan",))
@click.argument("name")
@pass_app
def enable(app: App, name: str) -> None:
    """Let a traffic rule hold again."""
    _set_enabled(app, name, True)


@rule.command(examples=("holdfast network rule disable wan",))
@click.argument("name")
@pass_app
def disable(app: App, name: str) -> None:
    """Let a traffic rule not hold until it is enabled again."""
    _set_enabled(app, name, False)


def _set_enabled(app: App, name: str, enabled: bool) -> None:
    changed = msgspec.structs.replace(app.catalog.traffic_rules.get(name), enabled=enabled)
    app.catalog.traffic_rules.update(changed)
    app.out.result({"rule": _shown(changed)}, f"{'Enabled' if enabled else 'Disabled'} traffic rule {name}")


def _given_table(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, as a rule's table; what was not given is not in it."""
    return {
        _LISTS.get(key, key): list(value) if key in _LISTS else value
        for key, value in given.items()
        if value not in (None, ())
    }


def _without(current: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    names = {
        key.replace("_", "-"): key for key in TrafficRule.__struct_encode_fields__ if key not in ("name", "enabled")
    }
    names["window"] = names.pop("windows")
    for key in keys:
        if key not in names:
            raise UsageError(reason=f"--reset {key}: there are {', '.join(names)}")
    gone = {names[key] for key in keys}
    return {key: value for key, value in current.items() if key not in gone}


def _shown(shown: TrafficRule) -> dict[str, Any]:
    return rule_to_table(shown) | {"in_force": in_force(shown, time.time())}


def _state(shown: TrafficRule) -> str:
    if not shown.enabled:
        return "disabled"
    return "holds now" if in_force(shown, time.time()) else "outside of its times"


def _limit(shown: TrafficRule) -> str:
    return "no limit" if shown.bandwidth_bytes_per_s is None else format_rate(shown.bandwidth_bytes_per_s)


def _way(shown: TrafficRule) -> str:
    ends = (", ".join(shown.source) or "any", ", ".join(shown.target) or "any")
    return f" {'to' if shown.one_way else 'and'} ".join(ends)


def _times(shown: TrafficRule) -> str:
    return f"{'; '.join(shown.windows)} ({shown.time_zone})" if shown.windows else "always"


def _summary(shown: TrafficRule) -> str:
    streams = "" if shown.streams is None else f", {counted(shown.streams, 'stream')}"
    return f"{_limit(shown)}{streams} between {_way(shown)}, {_times(shown)}"


def _table(rules: tuple[TrafficRule, ...]) -> str:
    if not rules:
        return "No traffic rules yet; `holdfast network rule add` adds one"
    rows = [
        (each.name, _way(each), _limit(each), str(each.streams or "-"), _times(each), _state(each)) for each in rules
    ]
    return table(
        ("rule", "between", "limit", "streams", "when", "state"), rows, right=("limit", "streams"), fold=("when",)
    )


def _settings(shown: TrafficRule) -> list[tuple[str, str]]:
    return [
        ("Traffic rule", f"{shown.name}: {_state(shown)}"),
        *([("Description", shown.description)] if shown.description else []),
        ("From", ", ".join(shown.source) or "any network"),
        ("To", ", ".join(shown.target) or "any network"),
        ("Direction", "one way" if shown.one_way else "both ways"),
        ("Bandwidth", f"{_limit(shown)}" + (" for all tasks together" if shown.bandwidth_bytes_per_s else "")),
        ("Streams", "as the job says" if shown.streams is None else str(shown.streams)),
        ("Times", _times(shown)),
    ]
