"""The API's loop: one thread of the service that owns the socket and the streams of all commands."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_server import ControlServer
from holdfast_agent.errors import HoldfastError
from holdfast_agent.wire.codec import CONTROL_LIMIT_BYTES
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.settings import ManagerSettings

from .admission import Admission
from .commands import Commands
from .dispatch import Dispatcher

log = logging.getLogger(__name__)

_TICK_S = 1.0
_LAST_REPLIES_S = 1.0


class ApiServer:
    """Serves from its making to ``close``. Raises ``ConfigInvalid`` where the address cannot be had."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, config: Path | None) -> None:
        admission = Admission(catalog.users)
        admission.refresh()
        keys = KeyPair.load(settings.identity_file)
        listen = f"tcp://{settings.api.listen}"
        self._server = ControlServer(listen, keys, admission.admits, CONTROL_LIMIT_BYTES, "api.listen")
        self._commands = Commands(settings, config)
        self._dispatcher = Dispatcher(admission, self._commands, self._server.send)
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watched: dict[int, tuple[bool, bool]] = {}
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)
        self._thread.start()
        log.info("the API is served at %s, key %s", self.endpoint, keys.public)

    @property
    def endpoint(self) -> str:
        """Where it listens: tcp://ADDRESS:PORT."""
        return self._server.endpoint

    def close(self) -> None:
        """End what runs, and stop. Called once."""
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join()
        os.close(self._stop_fd)

    def _run(self) -> None:
        self._server.watch(self._stop_fd)
        next_tick = time.monotonic()
        try:
            while True:
                self._watch()
                messages, fds = self._server.poll(max(0.0, next_tick - time.monotonic()))
                if self._stop_fd in fds:
                    return
                for fd in fds:
                    self._commands.ready(fd)
                for incoming in messages:
                    self._dispatcher.handle(incoming)
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + _TICK_S
                    self._dispatcher.tick()
        except Exception:
            log.exception("the API has stopped; sessions and jobs go on")  # the boundary of this thread
        finally:
            self._commands.close()
            self._server.close(_LAST_REPLIES_S)

    def _watch(self) -> None:
        """Descriptors come and go with every step."""
        wished = self._commands.fds
        for fd in self._watched.keys() - wished.keys():
            self._server.unwatch(fd)
        for fd, (readable, writable) in wished.items():
            if self._watched.get(fd) != (readable, writable):
                self._server.watch(fd, readable=readable, writable=writable)
        self._watched = wished


class ServesApi:
    """The API of a service: served while that leads. An address that cannot be had is logged, never raised."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, config: Path | None) -> None:
        self._settings = settings
        self._catalog = catalog
        self._config = config
        self._server: ApiServer | None = None

    def open(self) -> None:
        """The service leads from now on."""
        if not self._settings.api.listen:
            return
        try:
            self._server = ApiServer(self._settings, self._catalog, self._config)
        except HoldfastError as error:
            log.error("no API at %s: %s", self._settings.api.listen, error)

    def close(self) -> None:
        """It leads no more. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
