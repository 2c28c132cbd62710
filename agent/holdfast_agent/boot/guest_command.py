"""A command that is run in the guest by its agent, until it ends with 0: the service is up, not just the system.

What the guest answers is its own affair: nothing of it is believed further than its shape (QEMU Guest Agent Protocol
Reference: guest-exec, guest-exec-status).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final

_AGAIN_S: Final = 2.0
_ASK_EVERY_S: Final = 0.5
_SHOWN: Final = 200


class GuestCommand:
    """One boot proof's. Fed with what the agent says; tells what to ask it next. Never waits."""

    def __init__(self, text: str) -> None:
        """``text``: for the guest's ``/bin/sh -c``."""
        self.proved = False
        self.refused = ""
        self._text = text
        self._asked = False
        self._pid: int | None = None
        self._next_at = 0.0
        self._last = ""

    @property
    def told(self) -> str:
        """How the latest run that ended went."""
        return self._last or ("it has not ended" if self._pid is not None else "it did not begin")

    def take(self, messages: Iterable[dict[str, Any]], now: float) -> None:
        """What the agent has said by ``now``, which is monotonic."""
        for message in messages if self._asked else ():  # what was said before answers somebody else
            answer, error = message.get("return"), message.get("error")
            if isinstance(error, dict) and self._pid is None:
                self.refused = f"its guest agent runs no commands: {str(error.get('desc'))[:_SHOWN]}"
            elif isinstance(answer, dict) and isinstance(answer.get("pid"), int) and self._pid is None:
                self._pid = answer["pid"]
            elif isinstance(answer, dict) and answer.get("exited") is True and self._pid is not None:
                self._ended(answer, now)

    def request(self, now: float) -> dict[str, Any] | None:
        """What to send to the agent at ``now``; None if it is not yet time."""
        if self.proved or self.refused or now < self._next_at:
            return None
        self._next_at = now + (_AGAIN_S if self._pid is None else _ASK_EVERY_S)
        if self._pid is not None:
            return {"execute": "guest-exec-status", "arguments": {"pid": self._pid}}
        self._asked = True
        arguments = {"path": "/bin/sh", "arg": ["-c", self._text], "capture-output": True}
        return {"execute": "guest-exec", "arguments": arguments}

    def _ended(self, answer: dict[str, Any], now: float) -> None:
        self._pid, self._next_at = None, now + _AGAIN_S
        if answer.get("exitcode") == 0:
            self.proved = True
            return
        how = f"signal {answer['signal']}" if "signal" in answer else f"exit code {answer.get('exitcode')}"
        said = " ".join((_text(answer.get("err-data")) or _text(answer.get("out-data"))).split())[-_SHOWN:]
        self._last = f"{how}: {said}" if said else how


def _text(data: object) -> str:
    try:
        return base64.b64decode(str(data or ""), validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        return ""
