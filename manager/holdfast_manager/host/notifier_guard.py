"""What stands between a delivery and a plugin's notifier: see :mod:`.driver_guard`."""

from __future__ import annotations

from holdfast_plugins.api import Notice, Notifier

from .boundary import Boundary
from .guest_guard import SLACK_S


class GuardedNotifier:
    """A ``Notifier`` around a plugin's."""

    def __init__(self, plugin: str, notifier: Notifier) -> None:
        self._boundary = Boundary(plugin)
        self._notifier = notifier

    def send(self, notice: Notice, timeout_s: float) -> None:
        self._boundary.call("send", lambda: self._notifier.send(notice, timeout_s), limit_s=timeout_s + SLACK_S)
