"""Hosts, images and NBD servers for tests of disks."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from holdfast_agent.wire.movers import MoverHost
from lab.disk_suite import DATA, SIZE, content


def host_for(folder: Path) -> MoverHost:
    """A host that may open disks below ``folder``."""
    return MoverHost(
        agent="lab",
        disk_paths=(str(folder),),
        repository_paths=(),
        listen_address="127.0.0.1",
        advertised_address="127.0.0.1",
        port_range=(20000, 29999),
        cache_dir=str(folder),
        runtime_dir=str(folder),
        workers=2,
    )


def raw_image(path: Path) -> Path:
    """A sparse file with the content of the suite."""
    whole = content()
    with path.open("wb") as file:
        file.truncate(SIZE)
        for start, length in DATA:
            file.seek(start)
            file.write(whole[start : start + length])
    return path


@contextlib.contextmanager
def nbdkit(folder: Path, *arguments: str) -> Iterator[Path]:
    """An nbdkit server on a Unix socket in ``folder``; it is serving when this returns."""
    socket, pid = folder / "nbd.sock", folder / "nbd.pid"
    command = ["nbdkit", "--foreground", f"--unix={socket}", f"--pidfile={pid}", "--exit-with-parent", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            while not pid.exists():  # nbdkit writes it when it is ready to serve
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.01)
                    raise AssertionError(server.stdout.read() if server.stdout else "")
            yield socket
        finally:
            server.kill()  # SIGTERM would wait for clients that are still connected
