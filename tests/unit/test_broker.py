"""The broker over a driver that counts how often it is asked."""

from __future__ import annotations

import re

import pytest

from holdfast_agent.errors import NoVmChosen, VmNotFound
from holdfast_manager.broker import Broker
from holdfast_plugins.api import PlaceKind, VmInfo, VmRef


class CountingDriver:
    """The two inventory methods of a driver, over names that a test may change."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.lists = 0
        self.infos = 0

    def list_vms(self) -> list[VmRef]:
        self.lists += 1
        return [VmRef(f"id-{name}", name) for name in self.names]

    def vm_info(self, vm: VmRef) -> VmInfo:
        self.infos += 1
        return VmInfo(vm, ())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def driver() -> CountingDriver:
    return CountingDriver("web1", "db", "web2", "web[1]")


def names(vms: list[VmRef]) -> list[str]:
    return [vm.name for vm in vms]


def test_answers_come_from_the_cache_until_they_are_old(driver: CountingDriver) -> None:
    clock = Clock()
    broker = Broker(driver, "lab", max_age_s=10, clock=clock)
    first = broker.vms()
    driver.names.append("new")
    clock.now = 10
    assert broker.vms() == first
    clock.now = 10.5
    assert len(broker.vms()) == 5
    assert driver.lists == 2
    vm = first[0]
    assert broker.info(vm) == broker.info(vm)
    assert driver.infos == 1


def test_forget_asks_anew(driver: CountingDriver) -> None:
    broker = Broker(driver, "lab")
    vm = broker.vms()[0]
    broker.info(vm)
    broker.forget()
    broker.vms()
    broker.info(vm)
    assert (driver.lists, driver.infos) == (2, 2)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*"], [], ["db", "web1", "web2", "web[1]"]),
        (["web?", "web1"], [], ["web1", "web2"]),
        (["*"], ["web*"], ["db"]),
        (["id-db"], [], ["db"]),
        (["web[1]"], [], ["web[1]"]),
        (["web[2-9]"], [], ["web2"]),
        (["*"], ["gone"], ["db", "web1", "web2", "web[1]"]),
        (["db", "none*"], [], ["db"]),
    ],
)
def test_lists_of_a_job_choose_vms(
    driver: CountingDriver, include: list[str], exclude: list[str], expected: list[str]
) -> None:
    assert names(Broker(driver, "lab").resolve(include, exclude)) == expected


def test_a_name_that_is_not_there_is_an_error_with_the_nearest(driver: CountingDriver) -> None:
    with pytest.raises(VmNotFound, match=r"no VM 'wep1' on lab.*did you mean 'web1'") as caught:
        Broker(driver, "lab").resolve(["*", "wep1"])
    assert caught.value.exit_code == 10


def test_a_name_that_is_not_there_keeps_no_other_vm_from_its_backup(driver: CountingDriver) -> None:
    lost: list[VmNotFound] = []
    assert names(Broker(driver, "lab").resolve(["gone", "db", "lost"], [], lost.append)) == ["db"]
    assert [error.fields["vm"] for error in lost] == ["gone", "lost"]
    with pytest.raises(VmNotFound, match="'gone'"):
        Broker(driver, "lab").resolve(["gone", "db"], ["db"], lost.append)


@pytest.mark.parametrize(
    ("include", "exclude", "told"),
    [
        ([], [], "by an empty list: none of its 4"),
        (["x*", "y*"], [], "by 'x*' and 'y*': none of its 4"),
        (["web*"], ["*"], "by 'web*': all 3 are excluded"),
    ],
)
def test_nothing_to_back_up_is_an_error_that_says_why(
    driver: CountingDriver, include: list[str], exclude: list[str], told: str
) -> None:
    with pytest.raises(NoVmChosen, match=re.escape(f"no VM of lab is chosen {told}")):
        Broker(driver, "lab").resolve(include, exclude)


def test_a_server_without_vms_says_so() -> None:
    with pytest.raises(NoVmChosen, match="by '\\*': it has none, or none that its account may see"):
        Broker(CountingDriver(), "lab").resolve(["*"])


class PlacingDriver(CountingDriver):
    """Its VMs are in folders, and some bear a tag; one is called as an entry for a folder would be."""

    def places(self, kind: PlaceKind) -> dict[str, tuple[str, ...]]:
        if kind is PlaceKind.FOLDER:
            return {"id-web1": ("/dc/vm/web", "/dc"), "id-web2": ("/dc/vm/web", "/dc"), "id-db": ("/dc",)}
        return {"id-db": ("backup/gold",)} if kind is PlaceKind.TAG else {}


def test_a_job_may_name_places() -> None:
    broker = Broker(PlacingDriver("web1", "web2", "db", "tag:odd"), "lab")
    assert names(broker.resolve(["folder:/dc/vm/web"])) == ["web1", "web2"]
    assert names(broker.resolve(["folder:/dc"], ["tag:backup/*", "web2"])) == ["web1"]
    assert names(broker.resolve(["folder:*/web", "tag:backup/gold"])) == ["db", "web1", "web2"]
    assert names(broker.resolve(["tag:odd"])) == ["tag:odd"], "a VM of that name comes first"
    with pytest.raises(VmNotFound, match="'folder:/dc/vm/web'"):
        broker.resolve(["folder:/dc/vm/wep"])
    with pytest.raises(VmNotFound):
        broker.resolve(["host:esx1", "db"])


def test_a_server_without_places_has_none(driver: CountingDriver) -> None:
    broker = Broker(driver, "lab")
    with pytest.raises(VmNotFound):
        broker.resolve(["folder:/dc"])
    assert names(broker.resolve(["db"], ["folder:/dc"])) == ["db"]
