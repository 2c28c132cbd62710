"""What goes on in a lab guest while it is frozen and thawed: writers with numbers, seen from outside of it."""

from __future__ import annotations

import re
import time

from lab.guest import DATABASES, MYSQL, Flavour, Guest, Hardware, Saved, saved

_FILE_WRITER = (
    "(i=0; while :; do i=$((i + 1)); echo $i >/seq; echo seq $i >/dev/ttyS1; usleep 50000; done) >/dev/null 2>&1 &"
)
_SQL_WRITER = (
    "(i=0; while [ ! -e /run/enough ]; do i=$((i + 1)); echo \"INSERT INTO seq VALUES ($i);\"; usleep 20000; done "
    "| {client}) "
    ">/dev/null 2>&1 &"
)  # fmt: skip
POSTGRESQL, MARIADB = "psql -q -U postgres -h /run/postgresql postgres", "mariadb --unbuffered lab"
ORACLE_MYSQL = "mysql --unbuffered lab"


def database_guest(flavour: Flavour = DATABASES) -> Saved:
    """The one saved guest that all tests of quiescing share, so that it is booted once: two disks, and a network."""
    return saved(flavour, ("virtio-blk", "virtio-blk"), Hardware(network=True, memory_mib=flavour.memory_mib))


def mysql_guest() -> Saved:
    """The same with MySQL itself, of today: for `make soak`, since it is built of a release that changes."""
    return database_guest(MYSQL)


class FileWriter:
    """Writes numbers to a file of the guest's root and tells each on the second serial port, which nothing freezes."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.agent.shell(_FILE_WRITER)

    @property
    def number(self) -> int:
        """The last that was written."""
        return max((int(number) for number in re.findall(r"seq (\d+)\r?\n", self._guest.told)), default=0)

    def wait_goes_on(self, timeout_s: float = 60.0) -> None:
        """Return when two more numbers were written, of which one at least was begun after now."""
        last, end = self.number, time.monotonic() + timeout_s
        while self.number < last + 2:
            assert time.monotonic() < end, "the guest is frozen"
            time.sleep(0.01)

    def stands(self) -> bool:
        """Whether next to nothing was written for a while: a number may be told just after the file is frozen."""
        last = self.number
        time.sleep(0.2)
        return self.number <= last + 1


def start_sql_writer(guest: Guest, client: str) -> None:
    """Insert numbers into the table ``seq`` of a database, each in a transaction, until ``/run/enough`` is there."""
    guest.agent.shell(_SQL_WRITER.format(client=client))


def sql(guest: Guest, client: str, statements: str) -> list[str]:
    """Run statements in a database of the guest; the rows that come back."""
    options = "-A -t -v ON_ERROR_STOP=1" if client == POSTGRESQL else "--skip-column-names --batch"
    return guest.agent.shell(f"{client} {options} <<'END'\n{statements}\nEND").splitlines()
