"""Writes `docs/reference/`: commands, configuration and errors, as the code has them. `make reference` runs it.

A test compares what it would write with what is there, so that a change of a help text, a key or an error shows in the
change that makes it.
"""

from __future__ import annotations

import enum
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import msgspec

from holdfast_agent.cli.main import cli as agent_root
from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors.base import HoldfastError, _classes_by_code
from holdfast_manager.cli.app import App
from holdfast_manager.cli.root import root
from holdfast_manager.declarative.document import AgentTable, NetworkTable, RepositoryTable, ServerTable
from holdfast_manager.host import PluginHost
from holdfast_manager.rights.four_eyes import ALONE, NEEDED
from holdfast_manager.settings import ManagerSettings

PLACE = Path(__file__).parents[1] / "docs" / "reference"
WIDTH = 100
MADE = "<!-- Written by packaging/reference.py: change the code, then run `make reference`. -->\n"


def pages() -> dict[str, str]:
    """Each page by its name."""
    return {
        "commands.md": commands_page(),
        "configuration.md": configuration_page(),
        "errors.md": errors_page(),
        "approvals.md": approvals_page(),
    }


# --- commands -------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    parts = [MADE, "# Commands\n", "What `--help` says of each.\n"]
    for program, command in (("holdfast", root), ("holdfast-agent", agent_root)):
        for path, text in help_texts(program, command):
            level = "##" if path == program else "###"
            parts.append(f"{level} {path}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def help_texts(program: str, command: click.Command) -> Iterator[tuple[str, str]]:
    """Each command's whole name, and its help at a fixed width."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=program, obj=App(), **settings)
    yield from _help_of(context, program)


def _help_of(context: click.Context, path: str) -> Iterator[tuple[str, str]]:
    yield path, context.command.get_help(context)
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            sub = context.command.get_command(context, name)
            if sub is not None and not sub.hidden:
                settings = {**sub.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
                inner = click.Context(sub, info_name=name, parent=context, **settings)
                yield from _help_of(inner, f"{path} {name}")


# --- approvals ------------------------------------------------------------------------------------------------------


def approvals_page() -> str:
    """Which commands take a second person, and why the others do not."""
    needed = [f"| `{' '.join(path)}` | {what} |" for path, what in NEEDED.items()]
    alone: dict[str, list[str]] = {}
    for path, reason in ALONE.items():
        alone.setdefault(reason, []).append(f"`{' '.join(path)}`")
    free = [f"| {reason} | {', '.join(paths)} |" for reason, paths in alone.items()]
    return "\n".join(
        (
            MADE,
            "# Commands that take a second person\n",
            "Where approvals are required ([operations](../operations.md#four-eyes)), these wait until another "
            "administrator has granted them. A `--dry-run` never waits.\n",
            "| command | what of it waits |\n|---|---|",
            *needed,
            "\n## Commands that change something and take nobody else\n",
            "| why | commands |\n|---|---|",
            *free,
            "\nAll others change nothing.\n",
        )
    )


# --- configuration --------------------------------------------------------------------------------------------------


def configuration_page() -> str:
    parts = [
        MADE,
        "# Configuration\n",
        "Every key with its type and default. `configs/` has the same files with the reasons; an unknown key is an "
        "error that names the nearest one.\n",
        "## `manager.toml`\n",
        *tables(ManagerSettings, ""),
        "## `agent.toml`\n",
        *tables(AgentSettings, ""),
        "## Files for `holdfast apply`\n",
    ]
    for name, kind in (
        ("servers.NAME", ServerTable),
        ("agents.NAME", AgentTable),
        ("repositories.NAME", RepositoryTable),
        ("network", NetworkTable),
    ):
        parts += tables(kind, name)
    parts.append("`[jobs.NAME]` and `[traffic_rules.NAME]`: every key stands in `configs/jobs.toml`.\n")
    parts.append("## Options of the built-in plugins\n")
    host = PluginHost.load()
    for report in host.report():
        if report.origin != "built-in":
            continue
        for each in report.provides:
            options = host.options_type(each.family, each.name, each.hypervisor)
            parts.append(f"### {each.family} `{each.name}`\n\n{each.summary[0].upper()}{each.summary[1:]}.\n")
            parts += tables(options, "", heading=False)
    return "\n".join(parts)


def tables(kind: type[msgspec.Struct], name: str, *, heading: bool = True) -> list[str]:
    """A struct's table, and those of the structs in it."""
    parts = []
    if heading and name:
        parts.append(f"### `[{name}]`\n")
    words = inspect.getdoc(kind)
    if words:
        parts.append(_plain(words) + "\n")
    rows, inner = [], []
    for field in msgspec.structs.fields(kind):
        struct = _struct_in(field.type)
        if struct is not None and not _is_map(field.type):
            inner.append((field.encode_name, struct))
        elif struct is not None and typing.get_origin(field.type) is dict:
            inner.append((f"{field.encode_name}.NAME", struct))
        else:
            rows.append(f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} |")
    if rows:
        parts.append("\n".join(["| key | type | default |", "|---|---|---|", *rows]) + "\n")
    elif not inner:
        parts.append("It has no options.\n")
    for key, struct in inner:
        parts += tables(struct, f"{name}.{key}" if name else key)
    return parts


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    found = [each for each in (annotation, *typing.get_args(annotation)) if isinstance(each, type)]
    return next((each for each in found if issubclass(each, msgspec.Struct)), None)


def _is_map(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (dict, tuple, list)


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "nothing"
    if typing.get_origin(annotation) is typing.Annotated:
        base, *metas = typing.get_args(annotation)
        bounds = [bound for meta in metas if isinstance(meta, msgspec.Meta) for bound in _bounds(meta)]
        return _type(base) + (f", {', '.join(bounds)}" if bounds else "")
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " \\| ".join(f'`"{each.value}"`' for each in annotation)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " or ".join(_type(each) for each in typing.get_args(annotation) if each is not type(None))
    if _is_map(annotation):
        arguments = [each for each in typing.get_args(annotation) if each is not Ellipsis]
        if typing.get_origin(annotation) is dict:
            return f"table of {_type(arguments[-1])}"
        return f"list of {' and '.join(dict.fromkeys(_type(each) for each in arguments))}"
    names = {str: "text", bool: "`true` or `false`", int: "number", float: "number"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(meta: msgspec.Meta) -> Iterator[str]:
    for words, bound in (("at least", meta.ge), ("more than", meta.gt), ("at most", meta.le), ("less than", meta.lt)):
        if bound is not None:
            yield f"{words} {bound:,}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**required**"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None:
        return "–"
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


# --- errors ---------------------------------------------------------------------------------------------------------


ERRORS_HEAD = """\
Every error has a code that never changes its meaning, says what happened, and what to do. With `--output json` a
command that fails prints it as `{"error": {"code", "message", "action", "retryable", "exit_code"}}`. Words in braces
stand for what it is about. Where no advice stands here, it comes with each case. What is *retried* a session tries
again by itself.

Exit codes: 0 success · 1 failed · 2 wrong usage or configuration · 3 some VMs failed · 4 warnings (with `--strict`) ·
10 not found · 11 in use · 12 wrong key or passphrase · 13 denied · 14 verification found damage ·
20 outside the backup window · 130 cancelled.
"""


def errors_page() -> str:
    """By code; of all modules, for a class is known when its module is loaded."""
    for name in ("holdfast_agent.errors", "holdfast_manager.catalog.errors"):
        import_module(name)
    parts = [MADE, "# Errors\n", ERRORS_HEAD]
    for code in sorted(_classes_by_code):
        parts.append(_error(code, _classes_by_code[code]))
    return "\n".join(parts)


def _error(code: str, kind: type[HoldfastError]) -> str:
    facts = [f"exit code {kind.exit_code}"] + ["retried"] * kind.retryable
    told = f"## `{code}`\n\n> {_sentence(kind.message)}\n\n"
    if words := vars(kind).get("__doc__"):  # its own, not that of its family
        told += " ".join(_plain(words).split()) + "\n\n"
    if kind.action not in ("", "{advice}"):
        told += f"What to do: {_sentence(kind.action)}.\n\n"
    return told + f"*{', '.join(facts)}*\n"


def _plain(words: str) -> str:
    """A docstring without the roles of reStructuredText."""
    return re.sub(r":\w+:`~?\.?([\w.]+)`", r"`\1`", words).replace("``", "`")


def _sentence(template: str) -> str:
    """Without what only Python's format reads, such as ``{name!r}``."""
    return re.sub(r"\{(\w+)[^}]*\}", r"{\1}", template).replace("<", "&lt;").rstrip(".")


def main() -> None:
    stale = [
        name for name, text in pages().items() if not (PLACE / name).exists() or (PLACE / name).read_text() != text
    ]
    if "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(stale)}; run `make reference`" if stale else 0)
    PLACE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PLACE / name).write_text(text)
    print(f"docs/reference: {', '.join(stale) or 'nothing'} changed")


if __name__ == "__main__":
    for name in ("HOLDFAST_HOME", "HOLDFAST_CONFIG"):
        os.environ.pop(name, None)
    main()
