"""Parts of the web console that need no server: logins, the pace of guesses, names, certificates."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast_agent.errors import ConfigInvalid
from holdfast_manager.console import certificate
from holdfast_manager.console.guard import host_name
from holdfast_manager.console.knowledge import Asked
from holdfast_manager.console.logins import Logins, Throttle
from holdfast_manager.console.pages.files import disposition
from holdfast_manager.settings import ManagerSettings


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_login_ends_when_it_is_idle_or_old_and_makes_way_when_there_are_too_many() -> None:
    clock = Clock()
    logins = Logins(1800, clock)
    cookie = logins.begin("ann")
    for _ in range(24):
        clock.now += 1790
        assert logins.find(cookie) is not None
    clock.now += 1790
    assert logins.find(cookie) is None, "a login lasts for ever"
    idle = logins.begin("ann")
    clock.now += 1801
    assert logins.find(idle) is None
    first = logins.begin("ann")
    others = [logins.begin("eve") for _ in range(1000)]
    assert logins.find(first) is None
    assert logins.find(others[0]) is not None
    assert logins.find("") is None


def test_guesses_get_slower_and_are_forgiven() -> None:
    clock = Clock()
    throttle = Throttle(free=3, clock=clock)
    waits = []
    for _ in range(14):
        throttle.failed("10.0.0.7")
        waits.append(throttle.wait_s("10.0.0.7"))
    assert waits[:5] == [0, 0, 2, 4, 8]
    assert max(waits) == waits[-1] == 300
    assert throttle.wait_s("10.0.0.8") == 0
    clock.now += 299
    assert throttle.wait_s("10.0.0.7") == 1
    clock.now += 1000
    throttle.failed("10.0.0.7")
    assert throttle.wait_s("10.0.0.7") == 0, "failures are never forgiven"
    throttle.succeeded("10.0.0.7")
    for number in range(20_000):
        throttle.failed(str(number))
    assert len(throttle._failures) <= 10_000


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("letter.odt", "attachment; filename=\"letter.odt\"; filename*=UTF-8''letter.odt"),
        ("../x/y", "attachment; filename=\"_x_y\"; filename*=UTF-8''.._x_y"),
        (
            'a"\r\nSet-Cookie: b',
            "attachment; filename=\"a___Set-Cookie_ b\"; filename*=UTF-8''a%22%0D%0ASet-Cookie%3A%20b",
        ),
        ("..", "attachment; filename=\"file\"; filename*=UTF-8''.."),
        ("\udcff", "attachment; filename=\"_\"; filename*=UTF-8''%3F"),
    ],
)
def test_a_file_of_any_name_is_an_attachment(name: str, told: str) -> None:
    assert disposition(name) == told


def test_hosts_are_known_by_their_names_alone() -> None:
    given = ("A.example:8443", "a.example", "[::1]:8443", "[::1]", "10.0.0.7:1", "")
    assert [host_name(each) for each in given] == ["a.example", "a.example", "::1", "::1", "10.0.0.7", ""]


def test_the_own_certificate_is_kept_until_it_is_about_to_end_or_a_name_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(*hosts: str) -> ManagerSettings:
        table = {"data_dir": str(tmp_path), "console": {"listen": "127.0.0.1:1", "hosts": list(hosts)}}
        return ManagerSettings.from_table(table, "test")

    first = certificate.certificate_of(settings())
    assert certificate.certificate_of(settings()) == first
    assert certificate.known_fingerprint(settings()) == first.fingerprint
    assert first.key.stat().st_mode & 0o777 == 0o600
    named = certificate.certificate_of(settings("backup.example.com"))
    assert named.fingerprint != first.fingerprint

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override] # as much of it as is used
            return datetime.now(UTC) + timedelta(days=701)

    monkeypatch.setattr(certificate, "datetime", Later)
    assert certificate.certificate_of(settings("backup.example.com")).fingerprint != named.fingerprint
    (tmp_path / "other.pem").write_text("no certificate")
    table = {"console": {"certificate": str(tmp_path / "other.pem"), "key": "/k"}}
    with pytest.raises(ConfigInvalid, match=r"console\.certificate"):
        certificate.certificate_of(
            ManagerSettings.from_table({"console": {"listen": "[::1]:1", **table["console"]}}, "x")
        )
    for wrong in ({"listen": "nowhere"}, {"certificate": "/c"}, {"hosts": ["a b"]}, {"certificate": "c", "key": "k"}):
        with pytest.raises(ConfigInvalid):
            ManagerSettings.from_table({"console": wrong}, "test")


def test_what_hangs_keeps_nobody_waiting_and_what_fails_keeps_the_last_answer() -> None:
    go_on = threading.Event()
    answers = iter([["first"], RuntimeError("no"), None])

    def ask() -> list[str]:
        answer = next(answers)
        if answer is None:
            go_on.wait(60)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer or []

    asked = Asked("a test", ask, every_s=0)
    assert asked.look(60) == ["first"]
    for _ in range(3):
        assert asked.look() == ["first"]
    go_on.set()
