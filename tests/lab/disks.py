"""Hosts, images and NBD servers for tests of disks."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from holdfast_agent.wire.movers import MoverHost
from lab.disk_suite import DATA, SIZE, content


def host_for(folder: Path, *servers: str, timeout_s: float = 60.0, ca: Path | None = None) -> MoverHost:
    """A host that may open disks below ``folder`` and on ``servers``, whom it trusts by ``ca``."""
    return MoverHost(
        agent="lab",
        disk_paths=(str(folder),),
        repository_paths=(),
        listen_address="127.0.0.1",
        advertised_addresses=("127.0.0.1",),
        port_range=(20000, 29999),
        cache_dir=str(folder),
        runtime_dir=str(folder),
        workers=2,
        connect_timeout_s=timeout_s,
        stall_timeout_s=timeout_s,
        disk_servers=servers,
        tls_ca_file=str(ca or ""),
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
def nbdkit(folder: Path, *arguments: str, port: int = 0) -> Iterator[Path]:
    """An nbdkit server on a Unix socket in ``folder``, or on a port of loopback; it is serving when this returns."""
    address, pid = folder / "nbd.sock", folder / "nbd.pid"
    pid.unlink(missing_ok=True)
    listen = ["--ipaddr=127.0.0.1", f"--port={port}"] if port else [f"--unix={address}"]
    command = ["nbdkit", "--foreground", *listen, f"--pidfile={pid}", "--exit-with-parent", *arguments]
    environment = os.environ | {"TMPDIR": str(folder)}  # its plugin "sh" leaves a folder there when it is killed
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as server:
        try:
            while not pid.exists():  # nbdkit writes it when it is ready to serve
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.01)
                    raise AssertionError(server.stdout.read() if server.stdout else "")
            yield address
        finally:
            server.kill()  # SIGTERM would wait for clients that are still connected
            address.unlink(missing_ok=True)


@contextlib.contextmanager
def qemu_nbd(folder: Path, image: Path, *arguments: str, form: str = "raw") -> Iterator[Path]:
    """A qemu-nbd that serves an image on a Unix socket in ``folder``."""
    address, pid = folder / "qemu.sock", folder / "qemu.pid"
    for left in (address, pid):
        left.unlink(missing_ok=True)
    command = ["qemu-nbd", f"--format={form}", "--persistent", f"--socket={address}", f"--pid-file={pid}", *arguments]
    with subprocess.Popen([*command, str(image)]) as server:
        try:
            while not pid.exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    assert server.wait(0.01) is None, "qemu-nbd ended"
            yield address
        finally:
            server.kill()
