"""The notifiers that come with Holdfast, each with a real receiver: a mail server, a web server, syslog's sockets."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.server
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import ConfigInvalid, HoldfastError, NotDelivered, NoticeRefused
from holdfast_manager.host import PluginHost
from holdfast_manager.notifying.delivery import send
from holdfast_manager.notifying.notice import notice_of, trial_report
from holdfast_manager.reports.problems import Problem
from holdfast_manager.settings import NotifierSettings
from holdfast_plugins.api import Notice
from lab.certificates import Certificates, make_certificates
from lab.mail_server import mail_server
from lab.pages import assert_harmless

EVIL = '<script src="http://evil.example/x.js">alert(1)</script> & "quotes"\r\nBcc: all@example.com'

GOOD, BAD = "geheim", "falsch"


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return PluginHost.load()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates") / "made")


@pytest.fixture
def notice() -> Notice:
    """Of a session whose names are meant to do harm."""
    problem = Problem(level="error", about=f"vm {EVIL}", message=f"it broke: {EVIL}", action="Übung macht den Meister")
    report = msgspec.structs.replace(trial_report(1_800_000_000.0), what=f"backup {EVIL}", problems=[problem])
    return notice_of(report, "mail")


def mail_options(port: int, **more: Any) -> dict[str, Any]:
    return {"host": "localhost", "port": port, "from": "holdfast@example.com", "to": ["ops@example.com"], **more}


class Deliver:
    """Sends by a notifier as a configuration has it."""

    def __init__(self, host: PluginHost, notice: Notice, folder: Path) -> None:
        self._host, self._notice, self._folder = host, notice, folder

    def __call__(self, plugin: str, options: dict[str, Any], timeout_s: float = 60.0, **secrets: str) -> None:
        file = self._folder / "secret"
        file.unlink(missing_ok=True)
        file.touch(0o600)
        file.write_text("".join(f"{key}={value}\n" for key, value in secrets.items()))
        settings = NotifierSettings(plugin=plugin, options=options, secret_file=str(file) if secrets else "")
        send(settings, self._host, "it", self._notice, timeout_s)


@pytest.fixture
def deliver(host: PluginHost, notice: Notice, tmp_path: Path) -> Deliver:
    return Deliver(host, notice, tmp_path)


def test_mail_arrives_encrypted_with_text_and_html(
    deliver: Deliver, notice: Notice, certificates: Certificates
) -> None:
    with mail_server(certificates, password=GOOD) as box:
        options = mail_options(box.port, ca_file=str(certificates.ca), to=["ops@example.com", "boss@example.com"])
        deliver("smtp", options, user="holdfast", password=GOOD)
        (mail,) = box.mails
    assert (box.users, box.encrypted) == (["holdfast"], [True])
    assert mail["Subject"] == notice.subject
    assert mail["To"] == "ops@example.com, boss@example.com"
    assert mail["Bcc"] is None
    assert mail["Message-ID"] == f"<{notice.key}@example.com>"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert "Übung macht den Meister" in text.get_content()
    assert_harmless(html.get_content(), "<script src=")


def test_mail_over_tls_from_the_start(deliver: Deliver, certificates: Certificates) -> None:
    with mail_server(certificates, implicit=True) as box:
        deliver("smtp", mail_options(box.port, encryption="tls", ca_file=str(certificates.ca)))
    assert len(box.mails) == 1


def test_a_mail_server_that_is_not_trusted_gets_nothing(deliver: Deliver, certificates: Certificates) -> None:
    with mail_server(certificates, password=GOOD) as box:
        with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
            deliver("smtp", mail_options(box.port), user="holdfast", password=GOOD)
        assert (box.users, box.mails) == ([], [])
    with mail_server() as plain:
        with pytest.raises(NotDelivered, match="STARTTLS"):
            deliver("smtp", mail_options(plain.port), user="holdfast", password=GOOD)
        with pytest.raises(NoticeRefused, match="without encryption"):
            deliver("smtp", mail_options(plain.port, encryption="none"), user="holdfast", password=GOOD)
        deliver("smtp", mail_options(plain.port, encryption="none"))
        assert len(plain.mails) == 1


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (["450 mailbox busy"], NotDelivered),
        (["550 no such mailbox"], NoticeRefused),
        (["250 welcome", "550 no such mailbox"], NoticeRefused),
    ],
)
def test_mail_is_tried_again_only_where_that_may_help(
    deliver: Deliver, answers: list[str], error: type[HoldfastError]
) -> None:
    with mail_server() as box:
        box.answers = list(answers)
        to = [f"to{number}@example.com" for number in range(len(answers))]
        with pytest.raises(error):
            deliver("smtp", mail_options(box.port, encryption="none", to=to))
    assert len(box.mails) == (1 if "250 welcome" in answers else 0)


def test_a_wrong_password_is_told_and_never_shown(deliver: Deliver, certificates: Certificates) -> None:
    with mail_server(certificates, password=GOOD) as box, pytest.raises(NoticeRefused) as raised:
        deliver("smtp", mail_options(box.port, ca_file=str(certificates.ca)), user="holdfast", password=BAD)
    assert "535" in str(raised.value)
    assert BAD not in str(raised.value)


@dataclass
class Web:
    """A web server of the standard library; ``answers``: status and headers, else 204."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@contextlib.contextmanager
def web_server(certificates: Certificates | None = None) -> Iterator[Web]:
    web = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            web.requests.append((self.path, dict(self.headers.items()), body))
            status, headers = web.answers.pop(0) if web.answers else (204, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificates is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.certificate, certificates.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.url = f"{'https' if certificates else 'http'}://localhost:{server.server_address[1]}/hook?room=1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_web_server_gets_the_whole_report_signed(
    deliver: Deliver, notice: Notice, certificates: Certificates
) -> None:
    with web_server(certificates) as web:
        options = {"url": web.url, "ca_file": str(certificates.ca), "headers": {"X-Team": "ops"}}
        deliver("webhook", options, key="gemeinsam", token=GOOD)
        ((path, headers, body),) = web.requests
    assert path == "/hook?room=1"
    assert (headers["X-Team"], headers["Authorization"], headers["Holdfast-Notice"]) == (
        "ops",
        f"Bearer {GOOD}",
        notice.key,
    )
    moment, signature = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["Holdfast-Signature"]).groups()
    assert abs(int(moment) - time.time()) < 300
    assert signature == hmac.new(b"gemeinsam", f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    told = json.loads(body)
    assert told["key"] == notice.key
    assert told["session"]["problems"][0]["message"] == f"it broke: {EVIL}"


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (503, {}, NotDelivered),
        (429, {}, NotDelivered),
        (404, {}, NoticeRefused),
        (307, {"Location": "http://localhost:1/elsewhere"}, NoticeRefused),
    ],
)
def test_answers_of_a_web_server(
    deliver: Deliver, status: int, headers: dict[str, str], error: type[HoldfastError]
) -> None:
    with web_server() as web:
        web.answers = [(status, headers)]
        with pytest.raises(error, match=f"answered {status}") as raised:
            deliver("webhook", {}, url=web.url)
        assert "room" not in str(raised.value), "a secret address is shown"
        deliver("webhook", {}, url=web.url)
    assert len(web.requests) == 2


def test_a_web_server_that_is_not_trusted_gets_nothing(deliver: Deliver, certificates: Certificates) -> None:
    with web_server(certificates) as web, pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
        deliver("webhook", {"url": web.url})
    assert web.requests == []


def test_a_token_is_not_sent_for_everybody_to_read(deliver: Deliver) -> None:
    with web_server() as web, pytest.raises(NoticeRefused, match="without encryption"):
        deliver("webhook", {"url": web.url}, token=GOOD)
    assert web.requests == []


def test_a_local_socket_gets_a_line_as_syslog_3_writes_it(deliver: Deliver, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(60)
        deliver("syslog", {"address": str(tmp_path / "log"), "facility": "local3"})
        line = log.recv(5000).decode()
    assert re.match(r"<158>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d holdfast\[\d+\]: Holdfast: backup <script", line)
    assert "\n" not in line
    assert 'session="0" kind="backup" job="example" result="success"' in line
    with pytest.raises(NotDelivered):
        deliver("syslog", {"address": str(tmp_path / "nobody")})


def test_other_hosts_get_rfc_5424_over_udp_and_tcp(deliver: Deliver) -> None:
    pattern = (
        r"<30>1 2027-01-15T08:00:00.000Z \S+ holdfast \d+ session-end \[holdfast@32473 session=\"0\" [^\]]*\] Hold"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as log:
        log.bind(("127.0.0.1", 0))
        log.settimeout(60)
        deliver("syslog", {"address": f"udp://127.0.0.1:{log.getsockname()[1]}"})
        assert re.match(pattern, log.recv(5000).decode())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        deliver("syslog", {"address": f"tcp://127.0.0.1:{listener.getsockname()[1]}"})
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            length, line = stream.read().split(b" ", 1)
    assert int(length) == len(line)
    assert re.match(pattern, line.decode())


@pytest.mark.parametrize("plugin", ["smtp", "webhook", "syslog"])
def test_who_never_answers_holds_nobody_up(deliver: Deliver, plugin: str) -> None:
    """Each byte may come just before its time-out: the whole has a limit, too."""
    with dripping() as port:
        options = {
            "smtp": mail_options(port, encryption="none"),
            "webhook": {"url": f"http://localhost:{port}/"},
            "syslog": {"address": "tcp://192.0.2.1:601"},  # TEST-NET-1: nobody is there (RFC 5737)
        }
        with pytest.raises(NotDelivered):
            deliver(plugin, options[plugin], timeout_s=1.5)


@contextlib.contextmanager
def dripping() -> Iterator[int]:
    """A server that says one byte after the other, and never comes to an end."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while not stop.wait(0.1):
                connection.sendall(b"2")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize(
    ("plugin", "options", "says"),
    [
        ("smtp", {"host": "x", "from": "a@b", "to": []}, "to"),
        ("smtp", {"host": "x", "from": "a\n@b", "to": ["c@d"]}, "from"),
        ("smtp", {"host": "x", "from": "a@b", "to": ["c@d"], "ca_file": "ca.pem"}, "absolute"),
        ("webhook", {"url": "ftp://x/"}, "https"),
        ("webhook", {"url": "https://user@x/"}, "without a user"),
        ("webhook", {"url": "https://x/\r\nHost: y"}, "percent-encoded"),
        ("webhook", {"url": "https://x/", "headers": {"X-A": "b\r\nHost: y"}}, "headers"),
        ("syslog", {"address": "http://x:1"}, "address must be"),
        ("syslog", {"facility": "kern"}, "facility"),
    ],
)
def test_options_that_make_no_sense_are_told(host: PluginHost, plugin: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        host.notifier(plugin, options, "test", {})
