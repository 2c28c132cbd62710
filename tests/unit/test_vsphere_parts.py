"""The parts of the hypervisor `vsphere` that need no server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import ChangeTrackingLost, DiskUnsupported
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.hypervisors.tracking_names import new_tracking_name
from holdfast_plugins.hypervisors.vsphere import VsphereOptions
from holdfast_plugins.hypervisors.vsphere.datastores import DatastoreState, short_of_room
from holdfast_plugins.hypervisors.vsphere.devices import Disk, datastore_and_path, disks_of
from holdfast_plugins.hypervisors.vsphere.promises import Promised, parse_promised
from holdfast_plugins.hypervisors.vsphere.rights import sentences
from holdfast_plugins.hypervisors.vsphere.tracked_ids import change_since, tracked_id
from holdfast_plugins.hypervisors.vsphere.transports import flat_url

GIB = 1 << 30
RECORD, OTHER = "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63", "52 00 00 00 00 00 00 00-00 00 00 00 00 00 00 00"


def disk(change_id: str, uuid: str = "6000C29d-0a4b") -> Disk:
    return Disk("scsi0:0", 2000, "Hard disk 1", GIB, "store", "web/web.vmdk", uuid, change_id, parent=False)


def test_a_change_id_is_asked_with_only_if_nothing_speaks_against_it() -> None:
    kept = tracked_id(disk(f"{RECORD}/81"))
    assert kept is not None
    assert change_since(disk(f"{RECORD}/82"), kept) == f"{RECORD}/81"
    for now, why in (
        (disk(f"{OTHER}/90"), "began anew"),
        (disk(f"{RECORD}/81"), "reverted"),
        (disk(f"{RECORD}/80"), "reverted"),
        (disk(f"{RECORD}/82", "6000C29d-ffff"), "another disk"),
        (disk(""), "is off"),
    ):
        with pytest.raises(ChangeTrackingLost, match=why):
            change_since(now, kept)


def hardware(**odd: dict[str, Any]) -> list[Any]:
    """Of a VM with an empty drive and disks at these units of its second controller; by unit what is odd with one."""
    from pyVmomi import vim

    kinds = vim.vm.device
    devices = [kinds.ParaVirtualSCSIController(key=1001, busNumber=1, sharedBus="noSharing"), kinds.VirtualCdrom(key=3)]
    for unit in ("10", "2", "0"):
        change = odd.get(f"unit{unit}", {})
        raw = "compatibilityMode" in change
        backing = (kinds.VirtualDisk.RawDiskMappingVer1BackingInfo if raw else kinds.VirtualDisk.FlatVer2BackingInfo)(
            **{"fileName": f"[store {unit}] web/web.vmdk", "diskMode": "persistent"} | change
        )
        disk = kinds.VirtualDisk(key=2000 + int(unit), controllerKey=1001, unitNumber=int(unit), capacityInKB=1024)
        disk.backing = backing
        devices.append(disk)
    return devices


def test_disks_are_told_in_the_order_of_their_units_and_drives_are_not() -> None:
    from pyVmomi import vim

    told = disks_of(vim, hardware())
    assert [(disk.disk_id, disk.datastore) for disk in told] == [
        ("scsi1:0", "store 0"), ("scsi1:2", "store 2"), ("scsi1:10", "store 10")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"diskMode": "independent_persistent"}, "independent persistent"),
        ({"compatibilityMode": "physicalMode"}, "raw device in physical mode"),
        ({"sharing": "sharingMultiWriter"}, "several VMs write to it"),
        ({"fileName": ""}, "no file behind it"),
    ],
    ids=["independent", "raw device", "shared", "without a file"],
)
def test_a_disk_that_no_snapshot_freezes_is_refused_unless_it_is_left_out(odd: dict[str, Any], why: str) -> None:
    from pyVmomi import vim

    devices = hardware(unit2=odd)
    with pytest.raises(DiskUnsupported, match=f"scsi1:2.*{why}"):
        disks_of(vim, devices)
    left = ["scsi1:0", "scsi1:10"]
    assert [disk.disk_id for disk in disks_of(vim, devices, lambda disk_id: disk_id == "scsi1:2")] == left
    assert [disk.disk_id for disk in disks_of(vim, devices, refuse=False)] == left


@pytest.mark.parametrize("since", ["", "*", "vsphere::*", f"{RECORD}/81", "vsphere:x:y/1", "holdfast-x"])
def test_what_this_plugin_has_not_kept_is_no_change_id(since: str) -> None:
    with pytest.raises(ChangeTrackingLost, match="is no change id"):
        change_since(disk(f"{RECORD}/82"), since)


def test_a_disk_without_a_change_id_of_the_known_form_is_not_tracked() -> None:
    assert tracked_id(disk("")) is None
    assert tracked_id(disk("*")) is None
    assert tracked_id(disk("a:b/c")) is None


def test_room_is_asked_for_in_gib_or_as_a_share_of_what_there_is() -> None:
    large = DatastoreState("large", free_bytes=9 * GIB, capacity_bytes=4096 * GIB, flat=True)
    small = DatastoreState("small", free_bytes=2 * GIB, capacity_bytes=20 * GIB, flat=True)
    assert "large has 9.0 GiB free, and 10.0 GiB are to stay so" in short_of_room([small, large], 10)
    assert not short_of_room([small, large], 5)
    assert not short_of_room([small], 10)


def test_missing_rights_are_told_with_where_they_are_missing() -> None:
    names = {f"vm-{number}": f"web{number}" for number in range(5)}
    rights = ("A.Read", "A.Write")
    everywhere = {moid: {"A.Read": True, "A.Write": True} for moid in names}
    assert sentences(everywhere, rights, names) == []
    one = everywhere | {"vm-1": {"A.Read": True, "A.Write": False}}
    assert sentences(one, rights, names) == ["A.Write on web1"]
    assert sentences({}, rights, names) == ["A.Read on all", "A.Write on all"]
    most = {"vm-0": everywhere["vm-0"]}
    assert sentences(most, ("A.Read",), names) == ["A.Read on web1, web2, web3 and 1 more"]


@pytest.mark.parametrize(
    "name", ["", "web.vmdk", "[] web.vmdk", "[a/b] web.vmdk", "[store] ../web.vmdk", "[store] a\0b"]
)
def test_only_paths_in_datastores_are_taken_for_such(name: str) -> None:
    with pytest.raises(ValueError, match="is not a path in a datastore"):
        datastore_and_path(name)


def test_a_disk_is_read_at_its_flat_file() -> None:
    url = flat_url("https://vc.lab", "Ort/dc 1", "ssd&1", "web #1/web.vmdk")
    assert url == "https://vc.lab/folder/web%20%231/web-flat.vmdk?dcPath=Ort%2Fdc%201&dsName=ssd%261"
    assert str(parse_disk_url(url)) == url


def test_a_promise_comes_back_as_it_was_given_and_no_other_does() -> None:
    promised = Promised("vm", "web", str(new_tracking_name("one")))
    assert parse_promised(promised.data()) == promised
    assert parse_promised({**promised.data(), "name": "before the update"}) is None
    assert parse_promised({"vm": "vm", "name": promised.name}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "https://vc"},
        {"host": "vc", "certificate_sha256": "ab:cd"},
        {"host": "vc", "ca_file": "ca.pem"},
        {"host": "vc", "port": 0},
        {"host": "vc", "max_snapshots": 0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, VsphereOptions)


def test_the_origin_is_that_of_disk_urls() -> None:
    for options in (VsphereOptions(host="VC.lab"), VsphereOptions(host="fe80::1", port=8443)):
        url = flat_url(options.origin, "dc", "store", "web/web.vmdk")
        assert parse_disk_url(url).origin == options.origin
