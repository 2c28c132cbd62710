"""What guests there are: which packages each has, and how its database comes into being."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FILES = Path(__file__).with_name("files")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_MIB = 1 << 20


@dataclass(frozen=True)
class Database:
    """``account``: whom it runs as. ``service``: the file of this folder that starts and stops it.

    ``prepare``: makes an empty database in the guest's root, whose programs run on this host too.
    """

    packages: tuple[str, ...]
    account: str
    service: str
    prepare: Callable[[Path], None]


@dataclass(frozen=True)
class Flavour:
    """A guest with ``databases``, started in this order. ``release``: of Debian, where it is not the machine's own."""

    name: str
    databases: tuple[Database, ...] = ()
    disk_bytes: int = 128 * _MIB
    memory_mib: int = 192
    release: str = ""

    @property
    def packages(self) -> tuple[str, ...]:
        return tuple(package for database in self.databases for package in database.packages)


def _prepare_postgresql(root: Path) -> None:
    data = root / "var/lib/postgresql/data"
    data.parent.mkdir(parents=True)
    (initdb,) = root.glob("usr/lib/postgresql/*/bin/initdb")
    _as_user(
        root, data.parent, initdb, f"--pgdata={data}", "--username=postgres", "--auth=trust", "--encoding=UTF8",
        "--locale=C", "--no-sync",
    )  # fmt: skip
    with (data / "postgresql.conf").open("a") as file:
        file.write(
            "timezone='GMT'\nlog_timezone='GMT'\nlisten_addresses=''\nunix_socket_directories='/run/postgresql'\n"
        )
        file.write("jit=off\n")
    for program in ("psql", "pg_ctl"):
        (root / "usr/bin" / program).symlink_to(f"/{initdb.parent.relative_to(root) / program}")


def _prepare_mariadb(root: Path) -> None:
    data = root / "var/lib/mysql"
    data.mkdir(parents=True)
    _as_user(
        root, data, root / "usr/bin/mariadb-install-db", "--no-defaults", f"--basedir={root}/usr", f"--datadir={data}",
        "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M",
        f"--lc-messages-dir={root}/usr/share/mysql",
    )  # fmt: skip
    (root / "etc/mysql").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FILES / "my.cnf", root / "etc/mysql/my.cnf")


def _prepare_mysql(root: Path) -> None:
    data = root / "var/lib/mysql"
    data.mkdir(parents=True)
    loader = root / "lib64/ld-linux-x86-64.so.2"  # its libraries and this machine's loader do not fit together
    _as_user(
        root, data, loader, root / "usr/sbin/mysqld", "--no-defaults", "--initialize-insecure", f"--datadir={data}",
        f"--lc-messages-dir={root}/usr/share/mysql", f"--character-sets-dir={root}/usr/share/mysql/charsets",
        "--secure-file-priv=NULL", "--log-error-verbosity=1",
    )  # fmt: skip
    (root / "etc/mysql").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FILES / "mysql.cnf", root / "etc/mysql/my.cnf")


_POSTGRESQL = Database(
    ("postgresql-15", "postgresql-client-15", "tzdata"), "postgres", "postgresql", _prepare_postgresql
)
_MARIADB = Database(("mariadb-server-core", "mariadb-client-core"), "mysql", "mariadb", _prepare_mariadb)
_MYSQL = Database(("mysql-server-core", "mysql-client-core"), "mysql", "mysql", _prepare_mysql)
PLAIN = Flavour("plain")
POSTGRESQL = Flavour("postgresql", (_POSTGRESQL,), 384 * _MIB, 256)
DATABASES = Flavour("databases", (_POSTGRESQL, _MARIADB), 448 * _MIB, 320)
MYSQL = Flavour("mysql", (_MYSQL,), 1024 * _MIB, 640, release="sid")
"""Debian has MySQL itself in sid alone, which changes every day: for `make soak` only."""


def _as_user(root: Path, folder: Path, program: Path, *arguments: str | Path) -> None:
    """Run a program of the guest on this host, as its databases want it: not as root. ``folder`` will be its own."""
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    done = subprocess.run(
        [program, *arguments], user=account.pw_uid if account else None, group=account.pw_gid if account else None,
        extra_groups=[] if account else None, cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env={"LD_LIBRARY_PATH": str(root / _LIBRARIES), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode == 0, f"{program.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
