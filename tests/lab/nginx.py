"""nginx with one folder of files, on a port of loopback, with TLS or without."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.certificates import Certificates
from lab.ports import free_port
from lab.tools import require_tool

_CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    sendfile on;
    server {{
        listen 127.0.0.1:{port}{tls};
        root {root};
        {more}
    }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, root: Path, certificates: Certificates | None = None, more: str = "") -> Iterator[int]:
    """Serve ``root``; the port. ``more``: lines of the server's block."""
    program = require_tool("nginx", "nginx-light")
    folder.mkdir()
    port = free_port()
    if certificates:
        more = f"ssl_certificate {certificates.certificate}; ssl_certificate_key {certificates.key};\n{more}"
    tls = " ssl" if certificates else ""
    text = _CONFIGURATION.format(folder=folder, root=root, port=port, tls=tls, more=more)
    (folder / "nginx.conf").write_text(text)
    command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command) as server:
        try:
            while not _listens(port):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.01)
                    raise AssertionError("nginx ended")
            yield port
        finally:
            server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
