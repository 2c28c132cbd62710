"""Whom the plugin believes to be its vCenter: a pinned certificate, or one that an authority vouches for.

Pinning is done here and not by pyvmomi, whose own check of a fingerprint lets a wrong one pass. The same pin goes to
the proxies with their orders (``DiskAccess.certificate_sha256``).
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

_MOST_BYTES = 512 << 20


def connections_to(pin: str, ca_file: str) -> type[HTTPSConnection]:
    """The class of connections that trust a server as told. ``pin``: 64 hex digits, or "" for authorities.

    Nothing is sent before the server has proved to be the right one: ``connect`` raises
    :class:`ssl.SSLCertVerificationError` otherwise. Raises OSError for an unusable ``ca_file``.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if pin:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    class TrustingConnection(HTTPSConnection):
        response_class = _BoundedResponse

        def __init__(self, host: str, port: int | None = None, **arguments: Any) -> None:
            super().__init__(host, port, context=context, **arguments)

        def connect(self) -> None:
            super().connect()
            if not pin:
                return
            assert isinstance(self.sock, ssl.SSLSocket)  # noqa: S101 (a certificate is what makes it this class)
            found = _fingerprint(self.sock)
            if not hmac.compare_digest(found, pin):
                self.close()
                raise ssl.SSLCertVerificationError(1, f"its certificate is {found}, not the pinned {pin}")

    return TrustingConnection


class _BoundedResponse(HTTPResponse):
    """An answer of a size that a server has reason to give: the properties of 50,000 VMs are a tenth of it."""

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._told_bytes = 0

    def read(self, amt: int | None = None) -> bytes:
        part = super().read(_MOST_BYTES + 1 if amt is None else amt)
        self._told_bytes += len(part)
        if self._told_bytes > _MOST_BYTES:
            self.close()
            raise HTTPException(f"an answer of more than {_MOST_BYTES >> 20} MiB")
        return part


def shown_fingerprint(host: str, port: int, timeout_s: float) -> str:
    """The certificate that a server shows, for people to compare; "" if there is none to see."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=host) as peer,
        ):
            return _fingerprint(peer)
    except OSError:
        return ""


def _fingerprint(peer: ssl.SSLSocket) -> str:
    return hashlib.sha256(peer.getpeercert(binary_form=True) or b"").hexdigest()
