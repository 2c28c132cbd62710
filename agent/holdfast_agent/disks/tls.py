"""Whom a mover trusts when it connects to a server of disks. There is no way to trust everybody."""

from __future__ import annotations

import hashlib
import hmac
import ssl

from holdfast_agent.errors import DiskServerUntrusted, HoldfastError
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.wire.movers import MoverHost


def client_context(host: MoverHost, access: DiskAccess) -> ssl.SSLContext:
    """The settings of a client: TLS 1.2 at least, the server's name and certificate checked.

    With a pinned certificate OpenSSL checks nothing: :func:`check_pin` must follow the handshake. Raises OSError,
    :class:`ssl.SSLError` for unusable files.
    """
    context = ssl.create_default_context(cafile=host.tls_ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if access.certificate_sha256:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if host.tls_certificate_file:
        context.load_cert_chain(host.tls_certificate_file, host.tls_key_file or None)
    return context


def check_pin(certificate: bytes | None, access: DiskAccess) -> None:
    """Compare the server's certificate (DER) with the pinned one, if there is one, before anything is told it.

    Raises :class:`ssl.SSLCertVerificationError`.
    """
    if not access.certificate_sha256:
        return
    pinned = access.certificate_sha256.replace(":", "").lower()
    found = hashlib.sha256(certificate or b"").hexdigest()
    if not hmac.compare_digest(found, pinned):
        raise ssl.SSLCertVerificationError(f"its certificate is {found}, not the pinned {pinned[:64]}")


def untrusted(error: ssl.SSLCertVerificationError, url: str) -> HoldfastError:
    """What a failed check is for people."""
    return DiskServerUntrusted(url=url, reason=getattr(error, "verify_message", "") or str(error))
