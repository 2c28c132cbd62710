"""All that a program has from whoever starts it, and a fork from its template instead.

A session is forked only where both are the same. So nobody need know which of them matters, and what an administrator
changes of the service while it runs (prlimit, renice, taskset, another cgroup) holds for the next session as it does
for a program: the template differs from the service then.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_SELF = Path("/proc/self")
_OF_STATUS = (
    *("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"),
    *("Seccomp_filters", "SigBlk", "SigIgn", "Cpus_allowed", "Mems_allowed"),
)  # proc(5)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def surroundings(environment: Mapping[str, str]) -> str:
    """Those of this process and the programs that it starts with this environment, as a digest to be compared.

    The folder and the mask of new files are no part of it: a fork is given them. Raises ``OSError``.
    """
    lines = (*_of_this_process(), *sorted(f"{name}={value}" for name, value in environment.items()))
    return hashlib.sha256(b"\0".join(map(os.fsencode, lines))).hexdigest()


def _of_this_process() -> Iterator[str]:
    for line in (_SELF / "status").read_text().splitlines():
        if line.partition(":")[0] in _OF_STATUS:
            yield line
    for name in ("cgroup", "limits", "oom_score_adj"):
        yield (_SELF / name).read_text()
    for name in _NAMESPACES:
        place = _SELF / "ns" / name
        yield str(place.readlink()) if place.is_symlink() else ""  # a kernel without this kind
    yield str((_SELF / "root").readlink())
    yield f"{os.getpriority(os.PRIO_PROCESS, 0)} {os.sched_getscheduler(0)}"
