"""The inventory of a vCenter: read at once, then told by what changes, and grouped as jobs choose from it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast_agent.errors import VmNotFound
from holdfast_manager.broker import Broker
from holdfast_plugins.api import PlaceKind, VmRef
from holdfast_plugins.hypervisors.vsphere import VsphereDriver, watch
from lab.vcenter import LabVm, VCenter, vcenter
from lab.vsphere_backups import connected, machine_of, run_task, service_of

KIB, MIB = 1 << 10, 1 << 20
MANY = 12
PAGE = 5


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture(scope="module")
def vms(center: VCenter) -> dict[str, LabVm]:
    return {
        "web1": center.create("web1", [MIB], folder="prod"),
        "web2": center.create("web2", [MIB], folder="prod", datastore=1, host=1),
        "db": center.create("db", [MIB, 2 * MIB]),
    }


@pytest.fixture
def driver(center: VCenter, vms: dict[str, LabVm]) -> Iterator[VsphereDriver]:
    assert vms
    with connected(center) as made:
        yield made


def by_name(driver: VsphereDriver, kind: PlaceKind, *names: str) -> dict[str, set[str]]:
    places = driver.places(kind)
    return {vm.name: set(places.get(vm.vm_id, ())) for vm in driver.list_vms() if vm.name in names}


def test_vms_are_told_with_where_they_are(driver: VsphereDriver) -> None:
    told = {kind: by_name(driver, kind, "web2", "db") for kind in PlaceKind}
    assert told[PlaceKind.FOLDER] == {"web2": {"/DC0/vm/prod", "/DC0/vm", "/DC0"}, "db": {"/DC0/vm", "/DC0"}}
    assert told[PlaceKind.CLUSTER] == {"web2": {"DC0_C0"}, "db": {"DC0_C0"}}
    assert told[PlaceKind.HOST] == {"web2": {"DC0_C0_H1"}, "db": {"DC0_C0_H0"}}
    assert told[PlaceKind.DATASTORE] == {"web2": {"LocalDS_1"}, "db": {"LocalDS_0"}}
    assert "/DC0/host/DC0_C0/Resources" in told[PlaceKind.POOL]["db"]
    info = driver.vm_info(next(vm for vm in driver.list_vms() if vm.name == "db"))
    assert [(disk.disk_id, disk.size_bytes, disk.datastore) for disk in info.disks] == [
        ("scsi0:0", MIB, "LocalDS_0"),
        ("scsi0:1", 2 * MIB, "LocalDS_0"),
    ]
    assert (info.running, info.host) == (True, "DC0_C0_H0")


def test_a_job_chooses_by_name_pattern_folder_and_tag(
    center: VCenter, vms: dict[str, LabVm], driver: VsphereDriver
) -> None:
    tag(center, "backup", "gold", vms["db"], vms["web1"])
    tag(center, "backup", "none", vms["web2"])

    def chosen(*include: str, without: tuple[str, ...] = ()) -> list[str]:
        return [vm.name for vm in Broker(driver, "lab").resolve(include, without)]

    assert chosen("folder:/DC0/vm/prod") == ["web1", "web2"]
    assert chosen("folder:/DC0") == ["db", "web1", "web2"]
    assert chosen("folder:*/prod", without=("web2",)) == ["web1"]
    assert chosen("tag:backup/gold") == ["db", "web1"]
    assert chosen("*", without=("tag:backup/none", "db")) == ["web1"]
    assert chosen("datastore:LocalDS_1", "d*") == ["db", "web2"]
    assert chosen("host:DC0_C0_H1") == ["web2"]
    with pytest.raises(VmNotFound, match="'folder:/DC0/vm/prod'"):
        chosen("folder:/DC0/vm/prot")
    with pytest.raises(VmNotFound):
        chosen("cluster:other")


def test_a_change_is_seen_at_once_and_costs_the_same_with_many_vms(
    center: VCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by pages, so that what is told comes in several."""
    monkeypatch.setattr(watch, "_PAGE", PAGE)
    with connected(center) as driver:
        before = len(driver.list_vms())
        one = center.create("first", [KIB])
        driver.list_vms()
        few = cost(driver, monkeypatch, lambda: rename(center, one, "second"))
        for number in range(MANY):
            center.create(f"many{number}", [KIB], off=True)
        assert len(driver.list_vms()) == before + 1 + MANY
        driver.list_vms()
        many = cost(driver, monkeypatch, lambda: rename(center, one, "third"))
        assert "third" in {vm.name for vm in driver.list_vms()}
        assert many == few, "(requests, objects told) grow with the inventory"
    with connected(center) as anew:
        assert len(anew.list_vms()) == before + 1 + MANY, "a first load by pages"
        destroy(center, one)
        assert "third" not in {vm.name for vm in anew.list_vms()}
        center.expire_sessions()
        assert len(anew.list_vms()) == before + MANY, "what was known is not mixed with what a new session tells"


def test_a_vm_keeps_its_id_through_a_rename(center: VCenter, driver: VsphereDriver) -> None:
    vm = center.create("old name", [KIB])
    before = next(each for each in driver.list_vms() if each.name == "old name")
    rename(center, vm, "new name")
    assert VmRef(before.vm_id, "new name") in driver.list_vms()
    assert driver.vm_info(before).ref == VmRef(before.vm_id, "new name")


# --- what others do on the server -------------------------------------------------------------------------------------


def cost(driver: VsphereDriver, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> tuple[int, int]:
    """How many requests a list takes after ``change``, and of how many objects they told."""
    change()
    counted = [0, 0]
    read = driver.connection.read

    def counting(question: Callable[[Any], Any]) -> Any:
        answer = read(question)
        counted[0] += 1
        counted[1] += sum(len(each.objectSet) for each in getattr(answer, "filterSet", ()))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(driver.connection, "read", counting)
        driver.list_vms()
    return counted[0], counted[1]


def rename(center: VCenter, vm: LabVm, name: str) -> None:
    with service_of(center) as service:
        run_task(machine_of(service, vm).Rename_Task(name))


def destroy(center: VCenter, vm: LabVm) -> None:
    with service_of(center) as service:
        run_task(machine_of(service, vm).PowerOffVM_Task())
        run_task(machine_of(service, vm).Destroy_Task())


def tag(center: VCenter, category: str, name: str, *vms: LabVm) -> None:
    """Give VMs a tag of a category, by the REST interface; the category is made when it is not there."""
    context = ssl.create_default_context(cafile=center.certificates.ca)
    context.check_hostname = False
    credentials = base64.b64encode(f"{center.user}:{center.password}".encode()).decode()
    base = "/rest/com/vmware/cis"
    with contextlib.closing(http.client.HTTPSConnection(center.host, center.port, context=context)) as connection:
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {credentials}"}

        def ask(method: str, path: str, body: Any = None) -> Any:
            connection.request(method, base + path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            text = response.read()
            assert response.status == 200, text
            return json.loads(text).get("value") if text else None

        headers["vmware-api-session-id"] = ask("POST", "/session")
        del headers["Authorization"]
        known = [ask("GET", f"/tagging/category/id:{each}") for each in ask("GET", "/tagging/category") or ()]
        found = [each["id"] for each in known if each["name"] == category]
        spec = {"name": category, "description": "", "cardinality": "MULTIPLE", "associable_types": []}
        category_id = found[0] if found else ask("POST", "/tagging/category", {"create_spec": spec})
        tag_spec = {"name": name, "description": "", "category_id": category_id}
        tag_id = ask("POST", "/tagging/tag", {"create_spec": tag_spec})
        for vm in vms:
            bearer = {"object_id": {"type": "VirtualMachine", "id": vm.vm_id}}
            ask("POST", f"/tagging/tag-association/id:{tag_id}?~action=attach", bearer)
        ask("DELETE", "/session")


def test_what_datastores_take_is_what_their_hosts_measure(center: VCenter, driver: VsphereDriver) -> None:
    center.latencies(LocalDS_0=34, LocalDS_1=7)
    assert driver.latencies_ms({"LocalDS_0", "LocalDS_1", "none"}) == {"LocalDS_0": 34.0, "LocalDS_1": 7.0}
    assert driver.latencies_ms({"LocalDS_1"}) == {"LocalDS_1": 7.0}
    assert driver.latencies_ms(set()) == {}
