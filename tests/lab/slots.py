"""What tasks want, in short."""

from __future__ import annotations

from typing import Any

from holdfast_manager.scheduler.slots import Wish


def wish(*proxies: str, repository: str = "main", **more: Any) -> Wish:
    """One of ``proxies``, the most wanted first, and a repository."""
    return Wish(proxies=tuple((name,) for name in proxies), repository=repository, **more)
