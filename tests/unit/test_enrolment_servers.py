"""Trying a server before it is added: what its user may not do is told then, not at night."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from holdfast_agent.errors import RightsMissing
from holdfast_manager.catalog.values import ServerEntry
from holdfast_manager.enrolment.servers import try_server
from holdfast_manager.host import PluginHost
from holdfast_manager.host.driver_guard import GuardedDriver
from holdfast_plugins.api import VmRef

ENTRY = ServerEntry(name="prod", plugin="rights")


class Restricted:
    """As much of a driver as is asked when a server is tried."""

    def __init__(self, *missing: str) -> None:
        self.missing = missing
        self.closed = False

    def connect(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def list_vms(self) -> Sequence[VmRef]:
        return [VmRef("2", "web"), VmRef("1", "db")]

    def missing_rights(self) -> Sequence[str]:
        return self.missing


def host_of(driver: object, monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    host = PluginHost()
    monkeypatch.setattr(host, "hypervisor", lambda *_: GuardedDriver("rights", driver))  # type: ignore[arg-type]
    return host


def test_a_user_that_may_do_all_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Restricted()
    assert [vm.name for vm in try_server(host_of(driver, monkeypatch), ENTRY, {})] == ["db", "web"]
    assert driver.closed


def test_what_is_missing_is_told_and_may_be_put_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Restricted("A.Snapshot on web", "B.Read on all")
    with pytest.raises(RightsMissing, match=r"A\.Snapshot on web; B\.Read on all") as told:
        try_server(host_of(driver, monkeypatch), ENTRY, {})
    assert "--lacking-rights" in told.value.advice
    assert driver.closed
    assert len(try_server(host_of(driver, monkeypatch), ENTRY, {}, lacking_rights=True)) == 2


def test_servers_without_rights_of_their_own_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        def connect(self) -> None: ...

        def close(self) -> None: ...

        def list_vms(self) -> Sequence[VmRef]:
            return ()

    assert try_server(host_of(Plain(), monkeypatch), ENTRY, {}) == ()
