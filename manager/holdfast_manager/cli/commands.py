"""Commands and groups as `holdfast` has them: common options everywhere, examples in each --help, lazy loading."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from holdfast_agent.errors import Denied, UsageError
from holdfast_manager.rights.commands import Rule, rule_of

from .app import App, OutputForm

_WHOLE = 1000
"""Characters, more than any summary has."""


def _app(context: click.Context) -> App:
    app = context.find_object(App)
    if app is None:
        raise RuntimeError("commands run by cli.main.run, which gives them their App")
    return app


def _set_output(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        _app(context).output = OutputForm(value)


def _set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        _app(context).quiet = True
        _app(context).start_logging()


def _set_verbose(context: click.Context, parameter: click.Parameter, value: int) -> None:
    if value:
        _app(context).verbosity += value
        _app(context).start_logging()


def _set_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    if _app(context).carrier is not None:
        raise UsageError(reason="--config names a file of the manager's host: run this there")
    _app(context).config = value


def _set_manager(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        _app(context).named_manager = value


def common_options() -> list[click.Option]:
    """Options that may stand before and after the sub-command. Fresh objects: click binds each to its command."""
    forms = click.Choice([form.value for form in OutputForm])
    return [
        click.Option(
            ["--output"], type=forms, callback=_set_output, expose_value=False, is_eager=True,
            help="Text for people (the default), or one JSON document on stdout.",
        ),
        click.Option(
            ["-q", "--quiet"], is_flag=True, callback=_set_quiet, expose_value=False, help="Results and errors only.",
        ),
        click.Option(
            ["-v", "--verbose"], count=True, callback=_set_verbose, expose_value=False,
            help="More on stderr; twice for the most.",
        ),
        click.Option(
            ["--config"], type=click.Path(path_type=Path), callback=_set_config, expose_value=False, metavar="FILE",
            help="The manager's configuration file.",
        ),
        click.Option(
            ["--manager"], callback=_set_manager, expose_value=False, metavar="NAME",
            help="A manager on another host, as `holdfast remote add` named it.",
        ),
    ]  # fmt: skip


class Command(click.Command):
    """A command with ``examples`` (full command lines) at the end of its help."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.examples = tuple(examples)
        for parameter in self.params:
            if type(parameter.type) is click.Path:
                parameter.type = CarriedPath(parameter.type)
        self.params.extend(common_options())

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """As click does; what is missing is told with what it is."""
        try:
            return super().parse_args(context, args)
        except click.MissingParameter as error:
            if isinstance(error.param, click.Option) and error.param.help:
                raise click.MissingParameter(error.param.help, error.ctx, param=error.param) from error
            raise

    def invoke(self, context: click.Context) -> Any:
        """Run the command where it belongs, if whoever asks may, and write down what changes something."""
        app = _app(context)
        path = path_of(context)
        rule = rule_of(path)
        if app.manager is not None and not rule.here:
            from .remotely import run_remotely

            return run_remotely(app, app.manager, path, rule)
        _require(app, path, rule)
        if not rule.changes or context.params.get("dry_run"):
            return super().invoke(context)
        with app.recording.of(app, path, _named(self, context)) as recording:
            code = super().invoke(context)
            recording.code = code or 0
        return code

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)


class CarriedPath(click.Path):
    """A file as all commands name one: with the command it may have come from another host, or be sent to one."""

    def __init__(self, plain: click.Path) -> None:
        self.__dict__.update(plain.__dict__)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        app = _app(context) if context is not None and isinstance(value, str) else None
        if app is None or context is None or parameter is None or (value == "-" and self.allow_dash):
            return super().convert(value, parameter, context)
        makes = parameter.name in rule_of(path_of(context)).writes
        app.named_files[value] = makes
        place = value if app.carrier is None else app.carrier.place(value, makes)
        return super().convert(place, parameter, context)


def _require(app: App, path: tuple[str, ...], rule: Rule) -> None:
    """Raises ``Denied`` unless whoever asks may do this from there. What is refused to users is written down."""
    name = " ".join(path)
    try:
        app.actor.require(rule.right, name)
        if app.carrier is not None and (rule.stays or rule.here):
            raise Denied(reason=f"{name} does not run for other hosts: {rule.stays or 'it is about your own'}")
    except Denied:
        app.recording.refused(app, name)
        raise


class Group(click.Group):
    """A group whose commands are :class:`Command`; a slip in a command's name gets the nearest one."""

    command_class = Command

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.examples = tuple(examples)
        self.params.extend(common_options())

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            if name == "help":
                raise click.UsageError(f"`{context.command_path} --help` shows help", context)
            known = self.list_commands(context)
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"{context.command_path} has {', '.join(known)}"
            raise click.UsageError(f"no command {name!r}; {hint}", context)
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries(context))

    def summaries(self, context: click.Context) -> list[tuple[str, str]]:
        """Each command and its whole first sentence, however long: click would cut it off."""
        commands = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        return [
            (name, command.get_short_help_str(_WHOLE))
            for name, command in commands
            if command is not None and not command.hidden
        ]

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)


class LazyGroup(Group):
    """The root: imports the file of a command when it is called, so that `holdfast --help` is there at once.

    ``places`` maps each command to ("module:attribute", one line of help).
    """

    def __init__(self, *arguments: Any, places: dict[str, tuple[str, str]], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._places = places

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self._places:
            return None
        module, _, attribute = self._places[name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def summaries(self, context: click.Context) -> list[tuple[str, str]]:
        return [(name, summary) for name, (_, summary) in self._places.items()]


def path_of(context: click.Context) -> tuple[str, ...]:
    """The names of the command that runs, without the program's."""
    names: list[str] = []
    at: click.Context | None = context
    while at is not None and at.parent is not None:
        names.append(at.info_name or "")
        at = at.parent
    return tuple(reversed(names))


def _named(command: click.Command, context: click.Context) -> str:
    """What the command is to act on: the values of its arguments."""
    found = []
    for parameter in command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument) and value is not None:
            found += [str(each) for each in (value if isinstance(value, tuple) else (value,))]
    return " ".join(found)


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """KEY=VALUE arguments as a mapping. Raises :class:`UsageError`."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(reason=f"{option} takes KEY=VALUE, not {text!r}")
        if key in found:
            raise UsageError(reason=f"{option} gives {key!r} twice")
        found[key] = value
    return found


def _write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
