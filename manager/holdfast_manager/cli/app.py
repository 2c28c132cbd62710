"""What all commands share: the options given to `holdfast` itself, and what is opened because of them, once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast_agent.errors import UsageError
from holdfast_manager.logs import TextFormatter, formatter
from holdfast_manager.rights.actor import Actor, account_name
from holdfast_manager.settings import ManagerSettings

from .output import JsonOutput, Output, TextOutput
from .recording import Recording

if TYPE_CHECKING:
    from holdfast_agent.channel.authentication import KeyPair
    from holdfast_manager.api.carrying import Carrier
    from holdfast_manager.catalog import Catalog
    from holdfast_manager.host import PluginHost


class OutputForm(StrEnum):
    """``TEXT`` is for people and may change; ``JSON`` is for programs: fields are added, never renamed."""

    TEXT = "text"
    JSON = "json"


class App:
    """One per process. What costs time to load (database, plugins, keys) is loaded when a command first asks."""

    def __init__(
        self, arguments: Sequence[str] = (), actor: Actor | None = None, carrier: Carrier | None = None
    ) -> None:
        """``actor`` and ``carrier``: of a command that was typed on another host and runs here for its user."""
        self.arguments = tuple(arguments)
        self.actor = actor or Actor.of_this_process()
        self.carrier = carrier
        self.named_manager: str | None = None
        self.named_files: dict[str, bool] = {}
        """Files that the command names, and whether it makes them."""
        self.config: Path | None = None
        self.output = OutputForm.TEXT
        self.quiet = False
        self.verbosity = 0
        self.recording = Recording()
        self._told: Output | None = None
        self._exits = ExitStack()
        self._log: logging.Handler | None = None

    @property
    def out(self) -> Output:
        """Where results go."""
        if self._told is not None:
            return self._told
        return JsonOutput(self.quiet) if self.output is OutputForm.JSON else TextOutput(self.quiet)

    @contextmanager
    def telling(self, told: Output) -> Iterator[None]:
        """Have ``told`` take the results meanwhile."""
        before, self._told = self._told, told
        try:
            yield
        finally:
            self._told = before

    @contextmanager
    def step(self, arguments: Sequence[str], told: Output) -> Iterator[App]:
        """What a command needs that is a step of this one: as if it were typed, but that it tells ``told``."""
        inner = App(arguments)
        inner.config, inner.output, inner.quiet, inner.verbosity = self.config, self.output, self.quiet, self.verbosity
        inner._told, inner._log = told, self._log
        with inner._exits:
            yield inner

    @property
    def interactive(self) -> bool:
        """Whether somebody sits there who can answer a question."""
        return sys.stdin.isatty() and sys.stderr.isatty() and self.output is OutputForm.TEXT

    @cached_property
    def settings(self) -> ManagerSettings:
        """Raises ``ConfigError``."""
        return ManagerSettings.load(self.config)

    @cached_property
    def catalog(self) -> Catalog:
        """Raises ``CatalogMissing`` before `holdfast init`, and the other errors of ``Catalog.open``.

        A command that changes something is written down at this moment: before it there is nothing that it could
        change.
        """
        from holdfast_manager.catalog import Catalog

        self.expect_own_home()
        catalog = self._exits.enter_context(Catalog.open(self.settings))
        self.recording.begin(catalog)
        return catalog

    @property
    def manager(self) -> str | None:
        """The manager on another host that the command is for (--manager, $HOLDFAST_MANAGER); None: the one here."""
        if self.carrier is not None:
            return None
        return self.named_manager or os.environ.get("HOLDFAST_MANAGER") or None

    def expect_own_home(self) -> None:
        """Raises ``UsageError`` when root would leave files of its own among those of the service's user."""
        home = self.settings.home
        owner = home.stat().st_uid if home.exists() else os.geteuid()
        if os.geteuid() == 0 != owner:
            name = account_name(owner)
            raise UsageError(reason=f"{home} belongs to {name}: run this as that user (sudo -u {name} holdfast …)")

    @cached_property
    def host(self) -> PluginHost:
        from holdfast_manager.host import PluginHost

        plugins = self.settings.plugins
        return PluginHost.load(plugins.disabled, plugins.load)

    @cached_property
    def keys(self) -> KeyPair:
        """The manager's key pair. Raises ``ConfigError`` when `holdfast init` has not made it."""
        from holdfast_agent.channel.authentication import KeyPair

        return KeyPair.load(self.settings.identity_file)

    def start_logging(self) -> None:
        """Send logs to stderr at the level asked for; called again when a sub-command's options change it."""
        levels = {0: logging.WARNING, 1: logging.INFO}
        level = logging.ERROR if self.quiet else levels.get(self.verbosity, logging.DEBUG)
        if self._log is None:
            self._log = logging.StreamHandler(sys.stderr)
            self._log.setFormatter(TextFormatter())
            logging.getLogger().addHandler(self._log)
        logging.getLogger().setLevel(level)

    def log_as_service(self) -> None:
        """As the configuration says, as a program does that nobody watches; -v and -q still say how much."""
        self.verbosity = max(self.verbosity, 1)
        self.start_logging()
        if self._log is not None:
            self._log.setFormatter(formatter(self.settings.log_format))

    def close(self) -> None:
        """Called once, last."""
        if self._log is not None:
            logging.getLogger().removeHandler(self._log)
        self._exits.close()


pass_app = click.make_pass_decorator(App)
