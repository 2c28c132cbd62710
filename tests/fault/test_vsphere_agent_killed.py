"""kill -9 of a proxy's whole agent while disks are attached or read: nothing stays attached, nothing is orphaned."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.processes import alive
from lab.proxy_devices import guest_of
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import destroy_named
from lab.vsphere_house import VsphereHouse, vsphere_house
from lab.waiting import wait_until

MIB = 1 << 20
SIZE = 6 * MIB
HELD_MS = 1500


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture
def vms(center: VCenter) -> Iterator[tuple[LabVm, LabVm]]:
    """The proxy, and a VM full of random data. A disk's UUID follows from its name, and devices are the machine's."""
    proxy, vm = (center.create(f"{kind}-{secrets.token_hex(4)}", [SIZE]) for kind in ("proxy", "read"))
    center.write(vm, 0, [(0, os.urandom(SIZE))])
    yield proxy, vm
    for made in (vm, proxy):
        destroy_named(center, made.name)


@pytest.mark.parametrize("way", ["attaching", "hotadd", pytest.param("nfs", marks=pytest.mark.soak), "https"])
def test_the_session_goes_on_with_the_agent_that_comes_back(
    center: VCenter, vms: tuple[LabVm, LabVm], way: str, tmp_path: Path
) -> None:
    proxy, vm = vms
    with house_of(center, vms, way, tmp_path) as house:
        if way == "attaching":
            with center.faults(Fault("ReconfigVM_Task", vm=proxy.name, delay_ms=HELD_MS)):
                session = begun(house)
                wait_until(lambda: center._ask("GET", "/faults")[0]["Hits"], "the attachment")
                movers = killed(house)
        else:
            session = begun(house)
            house.reading(session)
            movers = killed(house)
        house.start_agent()
        assert ended(house, session) == "success"
        check_nothing_is_left(center, vms, house, movers)
        sid = house.points(vm.name)[0]["sid"]
        assert house.restored(vm.name, sid, "scsi0:0") == center.content(vm, 0)


@contextmanager
def house_of(center: VCenter, vms: tuple[LabVm, LabVm], way: str, folder: Path) -> Iterator[VsphereHouse]:
    """The job ``near`` backs the VM up, so slowly that it can be killed meanwhile."""
    proxy, vm = vms
    store, content = center.datastore("LocalDS_0"), center.content(vm, 0)
    known = {"nfs": f'mounts = {{ LocalDS_0 = "{store}" }}', "https": ""}.get(way, f'vm = "{proxy.name}"')
    transport = {"nfs": "san", "https": "https"}.get(way, "hotadd")  # a folder of this machine is no NFS
    options = (f"proxies={{ local = {{ {known} }} }}", f'transports=["{transport}"]')
    (folder / "guest").mkdir()
    with ExitStack() as stack:
        house = stack.enter_context(vsphere_house(folder / "house", center, *options, paths=("/dev", str(store))))
        if transport == "hotadd":
            stack.enter_context(guest_of(center, proxy.name, lambda _file: content, folder / "guest"))
        house.add_vsphere_job("near", vm.name, "--retry-pause", "0", "--bandwidth", "1 MiB")
        yield house


def check_nothing_is_left(center: VCenter, vms: tuple[LabVm, LabVm], house: VsphereHouse, movers: list[int]) -> None:
    """On the proxy's VM, on the server, among the machine's processes, in the repository."""
    proxy = vms[0].name
    assert center.state()["machines"][proxy]["disks"] == [f"[LocalDS_0] {proxy}/{proxy}.vmdk"]
    center.assert_clean()
    assert movers
    wait_until(lambda: not any(map(alive, movers)), "the end of the agent's movers")
    store = house.store / "main"
    wait_until(lambda: not [*(store / "sessions").iterdir(), *(store / "tmp").iterdir()], "a clean-up")


def begun(house: VsphereHouse) -> int:
    return int(house.holdfast("job", "run", "near", "--detach")["session"])


def killed(house: VsphereHouse) -> list[int]:
    """Kill the agent; what movers it had."""
    movers = house.movers()
    house.kill_agent()
    return movers


def ended(house: VsphereHouse, session: int) -> str:
    """The result of a session, once it has one; whatever is still to be done is done unhindered."""
    house.holdfast("job", "edit", "near", "--reset", "bandwidth")
    wait_until(lambda: house.holdfast("session", "show", str(session))["state"] == "ended", "the end of the session")
    return str(house.holdfast("session", "show", str(session))["result"])
