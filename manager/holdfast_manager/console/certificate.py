"""The console's certificate: files that were given, or one that it signs itself."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast_agent.durable import replaced_file
from holdfast_agent.errors import ConfigInvalid
from holdfast_agent.model.metrics import parse_place
from holdfast_manager.settings import ConsoleSettings, ManagerSettings

_LASTS = timedelta(days=730)
_RENEWED_BEFORE = timedelta(days=30)
_BACKDATED = timedelta(hours=1)  # browsers whose clocks are a little behind


class Certificate(msgspec.Struct, frozen=True):
    """PEM files, and the SHA-256 fingerprint of the certificate as browsers show it."""

    file: Path
    key: Path
    fingerprint: str
    own: bool


def names_of(console: ConsoleSettings) -> tuple[str, ...]:
    """By which the console may be called: its address, this host's names, "localhost", and what is configured."""
    address = parse_place(console.listen)[0]
    own = (socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1", "::1")
    named = (*console.hosts, address, *own)
    return tuple(dict.fromkeys(name.lower() for name in named if name and name not in ("0.0.0.0", "::")))  # noqa: S104 (nobody calls it so)


def certificate_of(settings: ManagerSettings) -> Certificate:
    """The one to be served; makes or renews the self-signed one. Called at the start of the console.

    Raises :class:`ConfigInvalid` for files that cannot be read.
    """
    console = settings.console
    if console.certificate:
        file, key = Path(console.certificate), Path(console.key)
        return Certificate(file, key, _fingerprint(file), own=False)
    file, key = settings.console_dir / "certificate.pem", settings.console_dir / "key.pem"
    if not _is_good(file, key, names_of(console)):
        _make(file, key, names_of(console))
    return Certificate(file, key, _fingerprint(file), own=True)


def known_fingerprint(settings: ManagerSettings) -> str:
    """Of the certificate that is there, "" if there is none that can be read; nothing is made."""
    file = Path(settings.console.certificate or settings.console_dir / "certificate.pem")
    with contextlib.suppress(ConfigInvalid):
        return _fingerprint(file)
    return ""


def _fingerprint(file: Path) -> str:
    try:
        digest = x509.load_pem_x509_certificate(file.read_bytes()).fingerprint(hashes.SHA256())
    except (OSError, ValueError) as error:
        raise ConfigInvalid(file=str(file), key="console.certificate", reason=str(error)) from error
    return digest.hex(":").upper()


def _is_good(file: Path, key: Path, names: tuple[str, ...]) -> bool:
    """Whether it is there, lasts for a while, and is for all names."""
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    lasts = found.not_valid_after_utc - datetime.now(UTC) > _RENEWED_BEFORE
    return lasts and key.exists() and {*_alternatives(names)} <= {*alternatives}


def _make(file: Path, key: Path, names: tuple[str, ...]) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Holdfast on {socket.gethostname()}"[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _LASTS)
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, content in ((key, secret), (file, certificate.public_bytes(pem))):  # with the last, both are there
        with replaced_file(path) as whole:
            whole.write(content)


def _alternatives(names: tuple[str, ...]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found
