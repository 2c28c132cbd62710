"""Connections to a vCenter: who is trusted, and what becomes of a session that ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_agent.errors import HypervisorUnreachable, SnapshotFailed
from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.vsphere import VsphereDriver, VsphereOptions, trust
from holdfast_plugins.hypervisors.vsphere.connection import Connection
from holdfast_plugins.testkit import MemoryJournal
from lab.certificates import make_certificates
from lab.vcenter import NAME, VCenter, vcenter
from lab.vsphere_backups import connected, options_of, secret_of

MIB = 1 << 20


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        made.create("web", [MIB])
        yield made


@pytest.fixture
def named(center: VCenter, monkeypatch: pytest.MonkeyPatch) -> VCenter:
    """The simulator has a name of its own, and another one: some libraries look away where a server is "localhost"."""
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **others: Any) -> Any:
        return real(center.host if host in (NAME, "other.lab") else host, *arguments, **others)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return center


def try_to_connect(options: VsphereOptions, secret: dict[str, str]) -> str:
    """Connect and ask for something. What the error says; empty if there was none."""
    driver = VsphereDriver(options, secret)
    try:
        driver.connect()
        assert driver.list_vms()
    except HypervisorUnreachable as error:
        return error.text
    finally:
        driver.close()
    return ""


@pytest.mark.parametrize("host", [NAME, "127.0.0.1", "other.lab"])
def test_the_pinned_certificate_is_trusted_and_no_other(named: VCenter, host: str) -> None:
    pin = named.certificates.fingerprint
    colons = ":".join(pin[at : at + 2] for at in range(0, 64, 2)).upper()
    for right in (pin, colons):
        assert not try_to_connect(options_of(named, host=host, certificate_sha256=right), secret_of(named))
    wrong = ("0" if pin[0] != "0" else "1") + pin[1:]
    told = try_to_connect(options_of(named, host=host, certificate_sha256=wrong), secret_of(named))
    assert f"its certificate is {pin}, not the pinned {wrong}" in told
    named.assert_clean()


def test_without_a_pin_an_authority_and_the_name_decide(named: VCenter, tmp_path: Path) -> None:
    ours, others = named.certificates.ca, make_certificates(tmp_path / "others", NAME, "127.0.0.1").ca
    by_authority = {"certificate_sha256": "", "host": NAME}
    assert not try_to_connect(options_of(named, **by_authority, ca_file=str(ours)), secret_of(named))
    for refused in (
        options_of(named, **by_authority, ca_file=str(others)),
        options_of(named, certificate_sha256="", host="other.lab", ca_file=str(ours)),
        options_of(named, **by_authority),
    ):
        told = try_to_connect(refused, secret_of(named))
        assert "certificate verify failed" in told
        assert named.certificates.fingerprint in told, "people are told what to compare and pin"


def test_a_wrong_password_is_told_and_not_repeated(center: VCenter) -> None:
    told = try_to_connect(options_of(center), {"user": center.user, "password": "guessed"})
    assert "name or password is wrong" in told
    assert "guessed" not in told


def test_nobody_there_is_told(center: VCenter) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        told = try_to_connect(options_of(center, port=listener.getsockname()[1]), secret_of(center))
    assert "refused" in told


def test_closing_leaves_no_session_and_no_thread(center: VCenter) -> None:
    before = set(threading.enumerate())
    with connected(center) as driver:
        driver.list_vms()
        assert center.state()["sessions"] == 1
    assert center.state()["sessions"] == 0
    assert set(threading.enumerate()) <= before


def test_a_session_that_was_ended_is_begun_anew_wherever_that_happens(center: VCenter) -> None:
    with connected(center) as driver:
        vm = driver.list_vms()[0]
        journal = MemoryJournal(on_promise=lambda _: center.expire_sessions())
        center.expire_sessions()
        disk = driver.vm_info(vm).disks[0]
        snapshot = driver.create_snapshot(SnapshotRequest(vm, "test", (disk.disk_id,)), journal)
        center.expire_sessions()
        driver.check_snapshot(snapshot)
        center.expire_sessions()
        driver.remove_snapshot(snapshot, True, journal)
        assert not journal.open
        center.assert_clean(sessions=1)


def test_a_password_that_changed_meanwhile_ends_in_words(center: VCenter) -> None:
    with connected(center) as driver:
        vm = driver.list_vms()[0]
        driver.connection._secret["password"] = "as it was"  # noqa: S105 (a wrong one)
        center.expire_sessions()
        with pytest.raises(HypervisorUnreachable, match="password is wrong"):
            driver.create_snapshot(SnapshotRequest(vm, "test", ("scsi0:0",)), MemoryJournal())
    center.assert_clean()


def test_the_session_is_kept_alive_by_a_thread_of_its_own(center: VCenter) -> None:
    connection = Connection(options_of(center), secret_of(center), keep_alive_s=0.02)
    connection.connect()
    try:
        center.expire_sessions()
        while connection.logins < 2:  # the test's own time-out ends it
            time.sleep(0.01)
        assert connection.cookie
    finally:
        connection.close()
    center.assert_clean()


def test_a_server_that_goes_away_is_told_as_such() -> None:
    with vcenter(esx=True) as host:
        vm = host.create("web", [MIB])
        driver = VsphereDriver(options_of(host), secret_of(host))
        driver.connect()
        known = driver.list_vms()[0]
        assert known.name == vm.name
    with pytest.raises(HypervisorUnreachable):
        driver.list_vms()
    with pytest.raises((HypervisorUnreachable, SnapshotFailed)):
        driver.create_snapshot(SnapshotRequest(VmRef(known.vm_id, "web"), "test", ("scsi0:0",)), MemoryJournal())
    driver.close()


def test_an_answer_without_end_is_not_read(center: VCenter, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(center) as driver:
        driver.list_vms()
        monkeypatch.setattr(trust, "_MOST_BYTES", 1000)
        with pytest.raises(HypervisorUnreachable, match="an answer of more than"):
            driver.vm_info(driver.list_vms()[0])
