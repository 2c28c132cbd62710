"""What jobs may say of quiescing a guest from within, whichever way leads into it."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import parse_duration
from holdfast_plugins.api import ConsistencyLevel

_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_LONGEST_FREEZE_S = 600.0


class Database(StrEnum):
    """Databases that can be held still. ``MYSQL`` is MariaDB, too."""

    POSTGRESQL = "postgresql"
    MYSQL = "mysql"


class GuestOptions(msgspec.Struct, frozen=True):
    """Of the processors that work inside the guest.

    ``pre_freeze``, ``post_thaw``: scripts of this host that are put into the guest, run there as root before the
    databases and the file systems are held, and after they go on, and removed. ``timeout`` ends each of them.
    ``consistency``: what ``pre_freeze`` achieves, as its owner says. ``databases``: those to hold, or "auto" for those
    that run. ``postgresql_user``: the account of the guest that may make a checkpoint; ``mysql_defaults_file``: a file
    of the guest with the credentials of one that may lock. ``freeze_limit``: for how long the guest may be held,
    whatever happens to this host meanwhile.
    """

    pre_freeze: str = ""
    post_thaw: str = ""
    timeout: str | float = 60.0
    consistency: ConsistencyLevel = ConsistencyLevel.FILE_SYSTEM
    databases: Literal["auto"] | tuple[Database, ...] = "auto"
    postgresql_user: str = "postgres"
    mysql_defaults_file: str = ""
    freeze_limit: str | float = 30.0

    def __post_init__(self) -> None:
        for script in (self.pre_freeze, self.post_thaw):
            if script and not Path(script).is_absolute():
                raise ValueError(f"the path of a script must be absolute, not {script!r}")
        if self.consistency is ConsistencyLevel.APPLICATION and not self.pre_freeze:
            raise ValueError("consistency says what pre_freeze achieves, which is not given")
        if not _ACCOUNT.fullmatch(self.postgresql_user):
            raise ValueError(f"{self.postgresql_user!r} is not the name of an account")
        if self.mysql_defaults_file and not Path(self.mysql_defaults_file).is_absolute():
            raise ValueError("mysql_defaults_file must be an absolute path in the guest")
        if not 0 < self.timeout_s <= 86400:
            raise ValueError("timeout must be more than 0 s and at most a day")
        if not 1 <= self.freeze_limit_s <= _LONGEST_FREEZE_S:
            raise ValueError(f"freeze_limit must be from 1 s to {_LONGEST_FREEZE_S:g} s")

    @property
    def timeout_s(self) -> float:
        return _seconds(self.timeout)

    @property
    def freeze_limit_s(self) -> float:
        return _seconds(self.freeze_limit)

    @property
    def wanted_databases(self) -> str:
        """As the guard in the guest has it."""
        return self.databases if self.databases == "auto" else " ".join(self.databases)


def _seconds(text: str | float) -> float:
    try:
        return parse_duration(text)
    except UsageError as error:
        raise ValueError(str(error)) from error
