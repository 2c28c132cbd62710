"""Exports of real repositories: the exporter as the agent starts it, and what to look at it with."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.movers import ExportHost, Listening
from holdfast_agent.wire.specs import BlockTree, ExportDisk, ExporterSpec, ReaderSpec
from lab import repositories as lab
from lab.movers import Mover, Site
from lab.tools import require_tool

TOOL_TIMEOUT_S = 60.0


@dataclass
class Export:
    """A running exporter. ``uri``: of its first disk; ``socket``: where it listens. ``reader``: the mover that
    feeds it, if there is one."""

    mover: Mover
    uris: tuple[str, ...]
    folder: Path
    reader: Mover | None = None

    @property
    def uri(self) -> str:
        return self.uris[0]

    @property
    def socket(self) -> Path:
        return self.folder / "nbd.sock"


def trees_of(point: Point) -> tuple[ExportDisk, ...]:
    """All disks of a point, as an exporter is told of them."""
    return tuple(ExportDisk(name=disk.name, tree=BlockTree(root_id(disk.root), disk.geometry)) for disk in point.disks)


def store(site: Site, blocks: Mapping[int, bytes], geometry: Geometry) -> Point:
    """A committed point with one disk."""
    repository = lab.open_at(site.folder)
    try:
        return lab.backup(repository, blocks, geometry)
    finally:
        repository.close()


@contextlib.contextmanager
def exported(
    site: Site,
    disks: tuple[ExportDisk, ...],
    *,
    name: str = "one",
    remote: bool = False,
    cache_bytes: int = 64 << 20,
    tls: tuple[Path, Path, Path] | None = None,
    exports: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Iterator[Export]:
    """An exporter that serves ``disks``; killed at the end if it was not stopped.

    ``remote``: it reads through a reader mover. ``tls``: certificate, key, and authority of the clients. ``exports``:
    what else the agent's configuration says of exports.
    """
    directory = site.folder / "exports"
    told: dict[str, Any] = dict(exports or {})
    told |= zip(("tls_certificate_file", "tls_key_file", "tls_client_ca_file"), map(str, tls or ()), strict=False)
    host = site.host(exports=ExportHost(directory=str(directory), cache_bytes=cache_bytes, **told))
    secret = secrets.token_bytes(32)
    repository = str(site.folder / "repository")
    with contextlib.ExitStack() as stack:
        places: dict[str, Any] = {"repository": repository}
        reader = None
        if remote:
            reader = stack.enter_context(Mover(ReaderSpec(task_id="t", secret=secret, repository=repository), host))
            places = {"endpoints": reader.expect(Listening).endpoints}
        whole = ExporterSpec(task_id="t", secret=secret, export=name, keys=site.keys, disks=disks, **places, **spec)
        mover = stack.enter_context(Mover(whole, host))
        uris = mover.expect(Listening).endpoints
        yield Export(mover, uris, directory / name, reader)


def run(*command: str | Path, check: bool = True) -> str:
    """Run a tool; what it printed on standard output. ``check`` False: it must fail; what it complained of."""
    done = subprocess.run(
        list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S,
        check=False,
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    if not check:
        assert done.returncode, f"{command} did not fail"
        return done.stderr
    return done.stdout


def nbdsh(script: str, uri: str = "") -> list[str]:
    """Lines that a script printed in libnbd's shell; ``h`` is a handle, connected to ``uri`` if that is given."""
    require_tool("nbdsh", "python3-libnbd")
    # Its module is the distribution's, and so is the interpreter that finds it.
    return run("/usr/bin/python3", "-m", "nbd", *(("-u", uri) if uri else ()), "-c", script).splitlines()


def content_of(blocks: Mapping[int, bytes], geometry: Geometry) -> bytes:
    """The whole disk."""
    whole = bytearray(geometry.size_bytes)
    for number, block in blocks.items():
        extent = geometry.extent(number)
        whole[extent.start : extent.end] = block[: extent.length]
    return bytes(whole)
