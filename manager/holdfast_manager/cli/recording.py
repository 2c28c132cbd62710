"""The audit log's part of a command: what it is about to do is written down first, and in the end how it went."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast_agent.errors import HoldfastError
from holdfast_manager.rights.values import BEGAN, DENIED, DONE, AuditRecord

if TYPE_CHECKING:
    from holdfast_manager.catalog import Catalog

    from .app import App

log = logging.getLogger(__name__)


class Recording:
    """One per process. A command that never opens the catalogue changed nothing, and leaves no entry."""

    def __init__(self) -> None:
        self.code = 0
        """With which the command ends, unless it raises."""
        self._record: AuditRecord | None = None
        self._catalog: Catalog | None = None
        self._number = 0

    @contextmanager
    def of(self, app: App, path: tuple[str, ...], target: str) -> Iterator[Recording]:
        """Within this a command runs that changes something; ``target`` is what it is to act on."""
        self._record = AuditRecord(
            actor=app.actor.name,
            place=app.actor.place,
            action=" ".join(path),
            target=target,
            outcome=BEGAN,
            detail=shlex.join(app.arguments),
        )
        outcome = "interrupted"
        try:
            yield self
            outcome = DONE if self.code == 0 else f"exit {self.code}"
        except HoldfastError as error:
            outcome = error.code
            raise
        finally:
            self._end(outcome)

    def begin(self, catalog: Catalog) -> None:
        """The catalogue is open. Raises what ``Audit.append`` does: what cannot be written down is not done."""
        if self._record is not None:
            self._number = catalog.audit.append(self._record)
            self._catalog = catalog

    def refused(self, app: App, action: str) -> None:
        """Somebody tried what is not allowed."""
        detail = shlex.join(app.arguments)
        actor = app.actor
        record = AuditRecord(actor=actor.name, place=actor.place, action=action, outcome=DENIED, detail=detail)
        app.catalog.audit.append(record)

    def _end(self, outcome: str) -> None:
        if self._record is None or self._catalog is None:
            return
        try:
            self._catalog.audit.end(self._number, self._record, outcome)
        except HoldfastError as error:
            log.warning("how the command ended is missing in the audit log: %s", error)
