"""What a manager hands a mover so that a server lets it at a disk."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .disk_url import DiskUrl


class DiskAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Secrets for the disks of one server. Travels with an order; never logged, never part of a URL.

    ``origin``: of the URLs that it is for (:attr:`DiskUrl.origin`), and nothing is sent to any other. ``cookie``: the
    value of the header, as a session with the server gave it. ``user`` and ``password``: basic authentication.
    ``certificate_sha256``: 64 hex digits; a server with this certificate is trusted, and none else, whatever the
    authorities say.
    """

    origin: str
    cookie: str = ""
    user: str = ""
    password: str = ""
    certificate_sha256: str = ""

    def __repr__(self) -> str:
        return f"DiskAccess(origin={self.origin!r})"


def access_to(url: DiskUrl, granted: Iterable[DiskAccess]) -> DiskAccess:
    """The secrets for this URL, or none."""
    return next((access for access in granted if access.origin == url.origin), DiskAccess(origin=url.origin))
