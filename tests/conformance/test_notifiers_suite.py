"""The notifiers that come with Holdfast pass the suite, each with a real receiver."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from holdfast_plugins.api import Notifier
from holdfast_plugins.notifiers.smtp import Encryption, SmtpNotifier, SmtpOptions
from holdfast_plugins.notifiers.syslog import SyslogNotifier, SyslogOptions
from holdfast_plugins.notifiers.webhook import WebhookNotifier, WebhookOptions
from holdfast_plugins.testkit import NotifierConformance, NotifierLab
from lab.mail_server import Mailbox, mail_server
from lab.ports import free_port


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """The port of a listener whose queue takes connections, and who never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


class MailLab(NotifierLab):
    def __init__(self, box: Mailbox) -> None:
        self._box = box

    def notifier(self) -> Notifier:
        return self._for(self._box.port)

    def received(self) -> Sequence[str]:
        for mail in self._box.mails:
            assert mail["To"] == "ops@example.com"
            assert mail["Bcc"] is None
        return [mail.as_string() for mail in self._box.mails]

    @contextlib.contextmanager
    def away(self) -> Iterator[Notifier]:
        yield self._for(free_port())

    @contextlib.contextmanager
    def silent(self) -> Iterator[Notifier]:
        with silence() as port:
            yield self._for(port)

    @staticmethod
    def _for(port: int) -> Notifier:
        options = SmtpOptions(
            host="127.0.0.1", port=port, sender="holdfast@example.com", to=("ops@example.com",),
            encryption=Encryption.NONE,
        )  # fmt: skip
        return SmtpNotifier(options, {})


class WebhookLab(NotifierLab):
    secrets = ("geheim",)

    def __init__(self, port: int, bodies: list[str]) -> None:
        self._port, self._bodies = port, bodies

    def notifier(self) -> Notifier:
        return self._for(self._port)

    def received(self) -> Sequence[str]:
        return self._bodies

    @contextlib.contextmanager
    def away(self) -> Iterator[Notifier]:
        yield self._for(free_port())

    @contextlib.contextmanager
    def silent(self) -> Iterator[Notifier]:
        with silence() as port:
            yield self._for(port)

    @staticmethod
    def _for(port: int) -> Notifier:
        return WebhookNotifier(WebhookOptions(url=f"http://127.0.0.1:{port}/hook"), {"key": "geheim"})


class SyslogLab(NotifierLab):
    def __init__(self, folder: Path, receiver: socket.socket) -> None:
        self._folder, self._receiver = folder, receiver

    def notifier(self) -> Notifier:
        return SyslogNotifier(SyslogOptions(address=str(self._folder / "log")), {})

    def received(self) -> Sequence[str]:
        found: list[str] = []
        self._receiver.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._receiver.recv(1 << 16).decode())
        return found

    @contextlib.contextmanager
    def away(self) -> Iterator[Notifier]:
        yield SyslogNotifier(SyslogOptions(address=str(self._folder / "nowhere")), {})


class TestSmtp(NotifierConformance):
    @pytest.fixture
    def lab(self) -> Iterator[NotifierLab]:
        with mail_server() as box:
            yield MailLab(box)


class TestWebhook(NotifierConformance):
    @pytest.fixture
    def lab(self) -> Iterator[NotifierLab]:
        bodies: list[str] = []

        class Hook(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not on the terminal."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
            serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            serving.start()
            yield WebhookLab(server.server_address[1], bodies)
            server.shutdown()
            serving.join()


class TestSyslog(NotifierConformance):
    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[NotifierLab]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(tmp_path / "log"))
            yield SyslogLab(tmp_path, receiver)
