"""Ends of real sessions are told, by the session or by the service, and no session ever waits for that."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.notices import CLAIM_S
from holdfast_manager.catalog.tables import notices
from lab.installation import Installation, installed
from lab.mail_server import Mailbox, mail_server
from lab.services import catalogue, service
from lab.waiting import wait_until


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mail_server() as made:
        yield made


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house")) as made:
        made.add_repository("main", encrypted=False)
        disk = made.vms / "web" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(os.urandom(1 << 20))
        made.add_job("web", repository="main", include="web")
        bad = made.vms / "bad" / "disk.qcow2"
        bad.parent.mkdir()
        bad.write_bytes(b"QFI\xfb" + bytes(60_000))
        made.add_job("bad", "--retries", "0", repository="main", include="bad")
        yield made


def notify(house: Installation, **notifiers: dict[str, Any]) -> None:
    """Let the configuration have these notifiers."""
    kept = house.manager_config.read_text().partition("# notifiers\n")[0]
    tables = [
        f"[notifiers.{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
        for name, table in notifiers.items()
    ]
    house.manager_config.write_text(kept + "# notifiers\n" + "\n".join(tables))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def mail(port: int, **more: Any) -> dict[str, Any]:
    options = {"host": "localhost", "port": port, "encryption": "none", "from": "a@b", "to": ["c@d"]}
    return {"plugin": "smtp", "options": options, **more}


def told(catalog: Catalog, session: int) -> dict[str, bool]:
    return {entry.notifier: entry.delivered is not None for entry in catalog.notices.list(session)}


def test_a_session_tells_by_itself_those_who_want_to_hear(house: Installation, box: Mailbox) -> None:
    notify(house, mail=mail(box.port), all=mail(box.port, results=["success", "failed"]))
    good = house.run_job("web")["id"]
    bad = house.run_job("bad", expect=1)["id"]
    with catalogue(house) as catalog:
        wait_until(lambda: told(catalog, bad) == {"mail": True, "all": True}, "two mails")
        assert told(catalog, good) == {"all": True}
    subjects = sorted(str(each["Subject"]) for each in box.mails)
    assert subjects[-1] == "Holdfast: backup by job web: success"
    assert len(subjects) == 3
    shown = house.holdfast("session", "show", str(bad))
    assert {each["notifier"] for each in shown["notices"]} == {"mail", "all"}


def test_no_session_waits_for_a_receiver_that_hangs(house: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        notify(house, mail=mail(silent.getsockname()[1], results=["success"]))
        began = time.monotonic()
        session = house.run_job("web")["id"]
        took_s = time.monotonic() - began
        with catalogue(house) as catalog:
            entry = catalog.sessions.get(session)
            assert entry.ended is not None
            assert took_s < 30, "it waited for the mail server"
            wait_until(lambda: catalog.notices.list(session)[0].attempts == 1, "an attempt")
            other = catalog.sessions.get(house.run_job("web")["id"])
            for each in (entry, other):  # they hang there still, and nothing of their sessions does
                os.kill(each.process.pid, signal.SIGKILL)


def test_the_service_goes_on_where_others_left_off(house: Installation, box: Mailbox) -> None:
    """The session's process is killed before it has told anybody; the mail server comes later still."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        notify(house, mail=mail(port, results=["success"]))
        session = house.run_job("web")["id"]
        with catalogue(house) as catalog:
            wait_until(lambda: catalog.notices.list(session)[0].attempts == 1, "an attempt")
            os.kill(catalog.sessions.get(session).process.pid, signal.SIGKILL)
    notify(house, mail=mail(box.port, results=["success"]))
    with catalogue(house) as catalog:
        with catalog.database.writing() as connection:  # as if five minutes had passed: the claim of the dead lapses
            connection.execute(notices.update().values(due=notices.c.due - CLAIM_S))
        with service(house):
            wait_until(lambda: told(catalog, session) == {"mail": True}, "a mail")
        keys = [str(each["Message-ID"]) for each in box.mails]
        assert len([key for key in keys if key.startswith(f"<holdfast-session-{session}-")]) == 1
        assert session not in [each["session"] for each in house.holdfast("notifier", "list")["waiting"]]


def test_a_notifier_can_be_tried(house: Installation, box: Mailbox) -> None:
    notify(house, mail=mail(box.port), typo={"plugin": "smpt"})
    house.holdfast("notifier", "test", "mail")
    assert str(box.mails[0]["Subject"]).startswith("Test: Holdfast: ")
    house.holdfast("notifier", "test", "typo", expect=10)
    house.holdfast("notifier", "test", "mall", expect=10)
    box.answers = ["550 no such mailbox"]
    house.holdfast("notifier", "test", "mail", expect=1)


def test_logs_are_json_with_ids_where_asked_for(house: Installation) -> None:
    notify(house)
    house.manager_config.write_text('log_format = "json"\n' + house.manager_config.read_text())
    report = house.run_job("web")
    log = house.home / "manager" / "logs" / f"session-{report['id']}.log"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["session"] for line in lines} == {report["id"]}
    with catalogue(house) as catalog:
        (task,) = catalog.tasks.list(report["id"])
    of_task = [line for line in lines if line.get("task") == task.id]
    assert {"SlotGranted", "MoversConnected", "TransferFinished"} <= {line["event"] for line in of_task}
    assert {(line["vm"], line["disk"]) for line in of_task} == {("web", "disk.raw")}
