"""The confined process: loads the libraries, gives up its rights, looks at the disks, tells what it found, ends."""

from __future__ import annotations

import os
from collections.abc import Sequence

from holdfast_agent.disks.nbd.connection import Connection
from holdfast_agent.errors import ErrorRecord, ExtraMissing, HoldfastError, InternalError
from holdfast_agent.wire.files import FetchFiles, MountFiles, SendFile
from holdfast_agent.wire.specs import FilesSpec

from .confine import confine
from .frames import Confined, Ended, Inlet, Outlet

MEMORY_BYTES = 2 << 30
LOOK_CPU_S = 600
FETCH_CPU_S = 7 * 86400
"""Reading itself takes no more than the disks have; this ends a library that a disk has sent round in a circle."""

_CODECS = ("ibm437", "utf-16-le", "utf-16-be", "latin-1", "ascii", "utf-8")


def read_files(
    spec: FilesSpec, disks: Sequence[Connection], host: str, empty_folder: str, pipe: int, questions: int
) -> None:
    """Called in a process of its own, right after the fork; never returns. ``host``: this one, for people.
    ``questions``: a pipe with them, for files that are mounted."""
    outlet = Outlet(pipe)
    try:
        error = _read(spec, disks, host, empty_folder, outlet, Inlet(questions))
    except OSError:
        os._exit(1)  # nobody listens any more
    except BaseException as failure:  # noqa: BLE001 - process boundary: whoever started us must learn of it
        name = type(failure).__name__
        error = InternalError(kind=name, where="the reader of file systems", reason=str(failure)[:500]).to_record()
    if error is not None:
        outlet.send(Ended(error=error))
    os._exit(0)


def _read(
    spec: FilesSpec, disks: Sequence[Connection], host: str, empty_folder: str, outlet: Outlet, questions: Inlet
) -> ErrorRecord | None:
    try:
        from .showing import Shown
        from .sources import ExportedDisk
        from .tree import Tree
        from .volumes import volumes
        from .walk import carry_out
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "dissect":
            raise
        return ExtraMissing(purpose="reading file systems", host=host, extra="files").to_record()
    for codec in _CODECS:
        "".encode(codec)  # found by a look into files, which soon is not possible
    cpu_s = FETCH_CPU_S if isinstance(spec.wish, (FetchFiles, SendFile, MountFiles)) else LOOK_CPU_S
    outlet.send(Confined(confine(empty_folder, MEMORY_BYTES, cpu_s)))
    try:
        sources = [ExportedDisk(name, disk) for name, disk in zip(spec.disks, disks, strict=True)]
        tree = Tree(volumes(sources), spec.volume)
        if isinstance(spec.wish, MountFiles):
            Shown(tree, questions, outlet.send).answer()
        else:
            carry_out(spec.wish, tree, outlet.send)
    except HoldfastError as error:
        return error.to_record()
    return None
