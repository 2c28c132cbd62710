"""One-time tokens: how a manager that an agent does not know yet proves that the agent's owner sent it.

A token is a CURVE key pair that the agent admits once and for a short time, with the agent's own public key: so both
sides know each other from the first byte on. Nothing but ``Enrol`` can be asked with it.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from holdfast_agent.durable import replaced_file
from holdfast_agent.errors import UsageError

from .authentication import KeyPair

_PREFIX = "hft1-"
_KEY_BYTES = 32
_MAX_FILE_BYTES = 1 << 16


@dataclass(frozen=True)
class EnrolmentToken:
    """What the owner of an agent gives to the owner of a manager: ``agent_key``, and the pair that is admitted once."""

    agent_key: str
    keys: KeyPair

    @property
    def text(self) -> str:
        """As it is handed over: letters, digits, "-" and "_"."""
        halves = z85.decode(self.agent_key.encode()) + z85.decode(self.keys.secret)
        return _PREFIX + base64.urlsafe_b64encode(halves).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> EnrolmentToken:
        """Raises :class:`UsageError`, which does not repeat ``text``."""
        body = text.strip().removeprefix(_PREFIX)
        try:
            halves = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            halves = b""
        if not text.strip().startswith(_PREFIX) or len(halves) != 2 * _KEY_BYTES:
            raise UsageError(reason="this is not a token as `holdfast-agent token` prints it")
        secret = z85.encode(halves[_KEY_BYTES:])
        keys = KeyPair(zmq.curve_public(secret).decode("ascii"), secret)
        return cls(z85.encode(halves[:_KEY_BYTES]).decode("ascii"), keys)


class EnrolmentTokens:
    """The tokens of an agent that may still be used: a file with lines "KEY EXPIRES", of public keys only.

    For one thread; other processes may add tokens at the same time as this one spends some: the file is replaced.
    ``clock`` gives Unix seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def make(self, agent_key: str, valid_s: float) -> EnrolmentToken:
        """A new token, to be used within ``valid_s``."""
        keys = KeyPair.generate()
        self._replace({**self._current(), keys.public: self._clock() + valid_s})
        return EnrolmentToken(agent_key, keys)

    def admits(self, key: str) -> bool:
        """Whether ``key`` is that of a token which may still be used. A file that cannot be read admits nobody."""
        try:
            return key in self._current()
        except OSError:
            return False

    def spend(self, key: str) -> bool:
        """Use a token up; False if there is none, or it has been used."""
        current = self._current()
        if current.pop(key, None) is None:
            return False
        self._replace(current)
        return True

    def _current(self) -> dict[str, float]:
        try:
            with self._path.open(encoding="ascii", errors="replace") as file:
                lines = [line.split() for line in file.read(_MAX_FILE_BYTES).splitlines()]
        except FileNotFoundError:
            return {}
        told = {
            words[0]: float(words[1])
            for words in lines
            if len(words) == 2 and "".join(words).isascii() and words[1].isdigit()
        }
        return {key: expires for key, expires in told.items() if self._clock() < expires}

    def _replace(self, tokens: dict[str, float]) -> None:
        with replaced_file(self._path) as file:
            file.writelines(f"{key} {expires:.0f}\n".encode("ascii") for key, expires in tokens.items())
