"""Who is logged in: kept in memory only, so that a restart of the console asks everybody again."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

_MOST_LOGINS = 1000
_LONGEST_S = 12 * 3600.0
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0
_FORGIVEN_S = 900.0
_MOST_REMEMBERED = 10_000


class Login(msgspec.Struct):
    """Of one browser. ``csrf``: what every form of it must send along. ``token``: by which it came, to be proved anew
    with every request; empty for a password. ``mark``: the user's (``Users.mark``), which must still be the same."""

    user: str
    token: str
    mark: str
    csrf: str
    began: float
    seen: float


class Logins:
    """By the digest of the cookie: whoever reads our memory cannot log in with it. Thread-safe."""

    def __init__(self, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_s = idle_s
        self._clock = clock
        self._lock = threading.Lock()
        self._logins: OrderedDict[bytes, Login] = OrderedDict()
        self._key = secrets.token_bytes(32)

    def begin(self, user: str, token: str = "", mark: str = "") -> str:
        """Returns the cookie. The one that nobody has used for longest gives way where there are too many."""
        cookie = secrets.token_urlsafe(32)
        now = self._clock()
        with self._lock:
            self._logins[_digest(cookie)] = Login(user, token, mark, secrets.token_urlsafe(32), now, now)
            while len(self._logins) > _MOST_LOGINS:
                self._logins.popitem(last=False)
        return cookie

    def find(self, cookie: str) -> Login | None:
        """The login of a cookie, which is used now; None for one that is over or never was."""
        now = self._clock()
        with self._lock:
            key = _digest(cookie)
            login = self._logins.get(key)
            if login is None:
                return None
            if now - login.seen > self._idle_s or now - login.began > _LONGEST_S:
                del self._logins[key]
                return None
            login.seen = now
            self._logins.move_to_end(key)
            return login

    def end(self, cookie: str) -> None:
        """Idempotent."""
        with self._lock:
            self._logins.pop(_digest(cookie), None)

    def proof(self, nonce: str) -> str:
        """What the login form sends along with the cookie ``nonce``, as long as nobody is logged in."""
        return hmac.digest(self._key, nonce[:200].encode(), hashlib.sha256).hex()


class Throttle:
    """Slows down who guesses: after a few failures each further try has to wait longer. Thread-safe.

    ``free``: so many failures cost nothing. Keys are names or addresses. Success forgets failures, and so does time.
    """

    def __init__(self, free: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = free
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, key: str) -> float:
        """How long before it may be tried again; 0: now."""
        now = self._clock()
        with self._lock:
            count, last = self._failures.get(key, (0, now))
        over = count - self._free
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(over, 16)) if over >= 0 else 0.0
        return max(0.0, last + pause - now)

    def failed(self, key: str) -> None:
        """One more."""
        now = self._clock()
        with self._lock:
            count, last = self._failures.get(key, (0, now))
            self._failures[key] = (1 if now - last > _FORGIVEN_S else count + 1, now)
            self._failures.move_to_end(key)
            while len(self._failures) > _MOST_REMEMBERED:
                self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Forget them."""
        with self._lock:
            self._failures.pop(key, None)


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie[:200].encode("utf-8", "replace")).digest()
