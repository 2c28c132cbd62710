"""Looks into the files of restore points, kept open while somebody goes through the folders."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import Locked, NotFound, UsageError
from holdfast_agent.wire.files import FileEntry, FilesFound, FilesWish
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.enrolment.points import read_point
from holdfast_manager.sessions.browsing import Browser, browsing
from holdfast_manager.settings import TimingSettings

_MOST_OPEN = 4
"""Each holds an exporter and a lease on an agent."""
_MOST_DOWNLOADS = 4
_IDLE_S = 120.0
_LOOK_EVERY_S = 5.0
_PATIENCE_S = 60.0


class _Look:
    """One restore point's export. ``lock`` is held by who asks it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.exits = ExitStack()
        self.browser: Browser | None = None
        self.used = time.monotonic()


class Looks:
    """Thread-safe. ``close`` ends all of them."""

    def __init__(self, catalog: Catalog, keys: Callable[[], KeyPair], timing: TimingSettings) -> None:
        self._catalog = catalog
        self._keys = keys
        self._timing = timing
        self._lock = threading.Lock()
        self._looks: dict[str, _Look] = {}
        self._downloads = threading.BoundedSemaphore(_MOST_DOWNLOADS)
        self._over = threading.Event()
        self._sweeper: threading.Thread | None = None

    def ask(self, row: PointEntryRow, wish: FilesWish, volume: str) -> FilesFound:
        """Raises as ``browsing`` and ``Browser.ask``, :class:`Locked` when too many others look."""
        with self.opened(row) as browser:
            return browser.ask(wish, volume)

    def download(self, row: PointEntryRow, path: bytes, volume: str) -> Generator[FileEntry | bytes, None, None]:
        """A file, then its content; a look of its own, which others need not wait for. To be closed.

        Raises as ``Browser.content``, :class:`Locked` when too many others download.
        """
        if not self._downloads.acquire(blocking=False):
            raise Locked(what="the download", holder=f"others: {_MOST_DOWNLOADS} run")
        try:
            with ExitStack() as exits:
                yield from self._open(exits, row).content(path, volume)
        finally:
            self._downloads.release()

    @contextmanager
    def opened(self, row: PointEntryRow) -> Iterator[Browser]:
        """The point, for who asks of it now. Anything but "not found" that is raised within ends the look."""
        look = self._look(row.sid)
        if not look.lock.acquire(timeout=_PATIENCE_S):
            raise Locked(what="this restore point", holder="others who look at its files")
        try:
            if look.browser is None:
                look.browser = self._open(look.exits, row)
            yield look.browser
        except NotFound:
            raise
        except BaseException:
            self._drop(row.sid, look)
            raise
        finally:
            look.used = time.monotonic()
            look.lock.release()

    def close(self) -> None:
        """Called once, last."""
        self._over.set()
        if self._sweeper is not None:
            self._sweeper.join()
        with self._lock:
            looks, self._looks = self._looks, {}
        for look in looks.values():
            with look.lock:
                look.exits.close()

    def _look(self, sid: str) -> _Look:
        with self._lock:
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, name="looks", daemon=True)
                self._sweeper.start()
            if sid in self._looks:
                return self._looks[sid]
            self._make_room()
            return self._looks.setdefault(sid, _Look())

    def _make_room(self) -> None:
        """Under the lock. Raises :class:`Locked` where all are in use."""
        if len(self._looks) < _MOST_OPEN:
            return
        idle = [(look.used, sid) for sid, look in self._looks.items() if not look.lock.locked()]
        if not idle:
            raise Locked(what="the restore browser", holder=f"others, who look into {_MOST_OPEN} restore points")
        look = self._looks.pop(min(idle)[1])
        threading.Thread(target=_close, args=(look,), name="look", daemon=True).start()

    def _open(self, exits: ExitStack, row: PointEntryRow) -> Browser:
        keys = self._keys()
        point = read_point(self._catalog, row, keys)
        proxy = _proxy_for(self._catalog, row.repository)
        return exits.enter_context(browsing(self._catalog, keys, self._timing, row, point, proxy))

    def _drop(self, sid: str, look: _Look) -> None:
        with self._lock:
            if self._looks.get(sid) is look:
                del self._looks[sid]
        look.exits.close()

    def _sweep(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            now = time.monotonic()
            with self._lock:
                old = [sid for sid, look in self._looks.items() if now - look.used > _IDLE_S and not look.lock.locked()]
                looks = [self._looks.pop(sid) for sid in old]
            for look in looks:
                _close(look)


def _close(look: _Look) -> None:
    with look.lock:
        look.exits.close()


def _proxy_for(catalog: Catalog, repository: str) -> str:
    """Where the repository is, nothing goes over the network: that agent, if it may hold keys; else any that may."""
    keeper = catalog.repositories.get(repository).agent
    proxies = catalog.agents.proxies()
    if not proxies:
        raise UsageError(reason="no agent has the role proxy, which looking into files takes")
    return keeper if keeper in proxies else proxies[0]
