"""`holdfast agent …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from holdfast_agent.errors import HoldfastError, UsageError
from holdfast_agent.model.units import format_duration, format_size
from holdfast_agent.wire.messages import Health, Space
from holdfast_manager.catalog.values import AgentEntry
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import facts, table

from .app import App, pass_app
from .approving import require_approval
from .asking import one_secret
from .commands import Group
from .whole import undisturbed

if TYPE_CHECKING:
    from holdfast_agent.channel.enrolment_tokens import EnrolmentToken

_SLOTS = click.IntRange(1, 1024)
_NOTABLE_CLOCK_S = 1.0


@click.group(cls=Group)
def agent() -> None:
    """Agents: the hosts that move and keep data."""


@agent.command(
    examples=(
        "holdfast agent add local 127.0.0.1:8430 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'",
        "holdfast agent add proxy2 proxy2.example.org KEY --proxy-slots 4",
        "holdfast agent add proxy3 proxy3.example.org --token",
    )
)
@click.argument("name")
@click.argument("endpoint", metavar="HOST[:PORT]")
@click.argument("key", default="")
@click.option("--token", "by_token", is_flag=True, help="By a one-time token, asked for or read from standard input.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="The token, in a file (mode 0600).")
@click.option("--proxy-slots", type=_SLOTS, help="Tasks at once as a proxy. Default: what the agent says.")
@click.option("--repository-slots", type=_SLOTS, help="Tasks at once as a repository. Default: what the agent says.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for an answer.",
)
@pass_app
def add(
    app: App,
    name: str,
    endpoint: str,
    key: str,
    by_token: bool,
    token_file: Path | None,
    proxy_slots: int | None,
    repository_slots: int | None,
    timeout: float,
) -> None:
    """Connect to an agent and add it.

    KEY is the agent's public key, as `holdfast-agent show` prints it on its host. The agent must have admitted this
    manager's key before (`holdfast-agent authorize`). Or, in the place of both: `holdfast-agent token` prints a token
    there, by which the agent admits this manager once.
    """
    from holdfast_manager.enrolment.agents import AgentWish, enrol, hello_table, probe

    _refuse_taken(app, name)
    if bool(key) == (by_token or token_file is not None):
        raise UsageError(reason="give the agent's KEY, or --token or --token-file")
    token = None if key else _token(app, token_file)
    wish = AgentWish(
        name=name,
        endpoint=endpoint,
        public_key=key if token is None else token.agent_key,
        proxy_slots=proxy_slots,
        repository_slots=repository_slots,
    )
    with undisturbed():  # a token serves once: what it was used for has to be of use
        if token is not None:
            enrol(endpoint, token, app.keys, timeout)
        entry, hello = probe(wish, app.keys, timeout)
        app.catalog.agents.add(entry)
    document = {"agent": entry, "found": hello_table(hello)}
    slots = _slots(entry)
    tools = f"; tools: {', '.join(hello.tools)}" if hello.tools else ""
    app.out.result(document, f"Added agent {name}: {hello.agent}, Holdfast {hello.software}, {slots}{tools}")


@agent.command("list", examples=("holdfast agent list", "holdfast agent list --check"))
@click.option("--check", is_flag=True, help="Ask each how it is; exits with 1 when one does not answer.")
@pass_app
def list_(app: App, check: bool) -> int:
    """All agents."""
    entries = app.catalog.agents.list()
    states = [_state(app, entry) if check else {} for entry in entries]
    document = [msgspec.to_builtins(entry) | state for entry, state in zip(entries, states, strict=True)]
    app.out.result({"agents": document}, lambda: _table(entries, states, check))
    return 1 if any(state.get("reachable") is False for state in states) else 0


@agent.command(examples=("holdfast agent show local",))
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """One agent, and what it says of itself now."""
    entry = app.catalog.agents.get(name)
    state = _state(app, entry)
    document = {"agent": entry, **state}
    app.out.result(document, lambda: _shown(entry, state))


@agent.command(examples=("holdfast agent edit proxy2 --proxy-slots 4",))
@click.argument("name")
@click.option("--proxy-slots", type=_SLOTS, help="Tasks at once as a proxy.")
@click.option("--repository-slots", type=_SLOTS, help="Tasks at once as a repository.")
@pass_app
def edit(app: App, name: str, proxy_slots: int | None, repository_slots: int | None) -> None:
    """Change how many tasks an agent gets at once. What runs there goes on."""
    given = {"proxy_slots": proxy_slots, "repository_slots": repository_slots}
    change = {key: slots for key, slots in given.items() if slots is not None}
    if not change:
        raise UsageError(reason="nothing to change; see `holdfast agent edit --help`")
    entry = _change(app, name, **change)
    app.out.result({"agent": entry}, f"Changed agent {name}: {_slots(entry)}")


@agent.command(examples=("holdfast agent disable proxy2",))
@click.argument("name")
@pass_app
def disable(app: App, name: str) -> None:
    """Take an agent into maintenance: what runs there ends as it would, nothing new starts there."""
    entry = _change(app, name, enabled=False)
    app.out.result({"agent": entry}, f"Disabled agent {name}: what runs there goes on, nothing new starts")


@agent.command(examples=("holdfast agent enable proxy2",))
@click.argument("name")
@pass_app
def enable(app: App, name: str) -> None:
    """Give an agent work again."""
    app.out.result({"agent": _change(app, name, enabled=True)}, f"Enabled agent {name}")


@agent.command(examples=("holdfast agent remove old-proxy",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Forget an agent. Its own configuration is untouched; take this manager's key away there, too."""
    entry = app.catalog.agents.get(name)
    require_approval(app, [f"agent {name} ({entry.endpoint})"])
    app.catalog.agents.remove(name)
    app.out.result({"removed": name}, f"Removed agent {name}")


def _token(app: App, token_file: Path | None) -> EnrolmentToken:
    from holdfast_agent.channel.enrolment_tokens import EnrolmentToken

    return EnrolmentToken.parse(one_secret(app, token_file, "The agent's token", "--token-file"))


def _change(app: App, name: str, **change: Any) -> AgentEntry:
    entry = msgspec.structs.replace(app.catalog.agents.get(name), **change)
    app.catalog.agents.update(entry)
    return entry


def _refuse_taken(app: App, name: str) -> None:
    """Before anybody waits for a connection."""
    from holdfast_agent.errors import AlreadyExists

    if any(entry.name == name for entry in app.catalog.agents.list()):
        raise AlreadyExists(kind="agent", name=name)


def _state(app: App, entry: AgentEntry) -> dict[str, Any]:
    from holdfast_manager.enrolment.agents import hello_table
    from holdfast_manager.enrolment.health import ask_state

    try:
        state = ask_state(entry, app.keys)
    except HoldfastError as error:
        return {"reachable": False, "error": error.to_record()}
    told = {"health": state.health, "clock_ahead_s": state.clock_ahead_s, "answered_s": state.answered_s}
    return {"reachable": True, "found": hello_table(state.hello), **told}


def _slots(entry: AgentEntry) -> str:
    slots = {"proxy": entry.proxy_slots, "repository": entry.repository_slots}
    return ", ".join(f"{role} ({slots[role]} tasks at once)" for role in entry.roles)


def _table(entries: tuple[AgentEntry, ...], states: list[dict[str, Any]], check: bool) -> str:
    if not entries:
        return "No agents yet; `holdfast agent add` adds one"
    rows = []
    for entry, state in zip(entries, states, strict=True):
        state_text = "enabled" if entry.enabled else "disabled"
        rows.append((entry.name, entry.endpoint, _slots(entry), state_text, *(_checked(state) if check else ())))
    return table(
        ("agent", "endpoint", "roles", "state", *(_CHECKED if check else ())),
        rows,
        fold=("roles", "free", "check") if check else ("roles",),
    )


_CHECKED = ("check", "version", "clock", "movers", "free")


def _checked(state: dict[str, Any]) -> tuple[str, ...]:
    if not state["reachable"]:
        return (state["error"].message, "-", "-", "-", "-")
    health: Health | None = state["health"]
    version = f"{state['found']['software']} ({state['found']['protocol']})"
    if health is None:
        return ("answers", version, "-", "-", "-")
    return ("answers", version, _clock(state), str(health.movers), ", ".join(_free(space) for space in health.space))


def _clock(state: dict[str, Any]) -> str:
    """Differences are known to within the time of an answer; less than that, or a second, is none."""
    ahead_s: float = state["clock_ahead_s"]
    if abs(ahead_s) <= max(_NOTABLE_CLOCK_S, state["answered_s"]):
        return "right"
    return f"{format_duration(abs(ahead_s))} {'ahead' if ahead_s > 0 else 'behind'}"


def _free(space: Space) -> str:
    if space.error:
        return f"{space.path}: {space.error}"
    share = 100 * space.free_bytes / space.size_bytes if space.size_bytes else 0
    return f"{space.path}: {format_size(space.free_bytes)} ({share:.0f} %)"


def _shown(entry: AgentEntry, state: dict[str, Any]) -> str:
    pairs = [
        ("Agent", entry.name),
        ("Endpoint", entry.endpoint),
        ("Key", entry.public_key),
        ("Roles", _slots(entry)),
        ("State", "enabled" if entry.enabled else "disabled"),
    ]
    if state["reachable"]:
        found = state["found"]
        pairs += [
            ("Answers as", f"{found['agent']}, Holdfast {found['software']}, protocol {found['protocol']}"),
            ("Opens disks", ", ".join(found["disk_schemes"]) or "-"),
            ("Tools", ", ".join(found["tools"]) or "-"),
        ]
        if state["health"] is not None:
            health: Health = state["health"]
            pairs += [
                ("Clock", _clock(state)),
                ("Movers", f"{health.movers} at work, {counted(health.leases, 'session')} of managers"),
                ("Free", "\n".join(_free(space) for space in health.space)),
            ]
    else:
        error = state["error"]
        pairs.append(("Answers", f"no: {error.message}\n{error.action}"))
    return facts(pairs)
