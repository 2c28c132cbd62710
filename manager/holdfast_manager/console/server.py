"""Runs the console: TLS, limits, and the end of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from holdfast_agent.model.metrics import parse_place
from holdfast_manager.settings import ManagerSettings

from .certificate import certificate_of
from .patience import PatientProtocol

log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 200
_MOST_HEAD_BYTES = 16 << 10
_KEEP_ALIVE_S = 15
_FAREWELL_S = 5


def serve(settings: ManagerSettings, app: ASGIApp, parent_fd: int) -> None:
    """Until SIGTERM, or until the other end of ``parent_fd`` is closed: nobody is left to end us then.

    Raises ``ConfigInvalid`` for a certificate of no use, ``OSError`` for an address that cannot be had.
    """
    certificate = certificate_of(settings)
    host, port = parse_place(settings.console.listen)

    def context(_config: uvicorn.Config, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made = make()
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        return made

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="asyncio",
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_FAREWELL_S,
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        ssl_certfile=certificate.file,
        ssl_keyfile=str(certificate.key),
        ssl_context_factory=context,
    )
    server = uvicorn.Server(config)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(parent_fd, 1):
                pass
        server.should_exit = True

    threading.Thread(target=watch, name="parent", daemon=True).start()
    signed = "signed by itself" if certificate.own else "as configured"
    log.info("the console is at https://%s/", settings.console.listen)
    log.info("its certificate, %s, has the SHA-256 fingerprint %s", signed, certificate.fingerprint)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    asyncio.run(server.serve())
