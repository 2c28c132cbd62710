"""Ways to vSphere's disks: which a proxy has, which proxies have better ones, and how they are written as URLs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.errors import UnknownConfigKey
from holdfast_agent.model.disk_url import DiskScheme, parse_disk_url
from holdfast_agent.model.strict import convert, read_toml
from holdfast_plugins.hypervisors.vsphere import ProxyOptions, Transport, VsphereOptions
from holdfast_plugins.hypervisors.vsphere.transports.choice import DiskFacts, choose, nearest, turned
from holdfast_plugins.hypervisors.vsphere.transports.urls import device_url, mounted_url, vddk_url

STORES = ("fast", "slow")
FILES = (Transport.SAN, Transport.NFS, Transport.HTTPS)
orders = st.permutations(list(Transport)).flatmap(lambda all_: st.integers(1, len(all_)).map(lambda n: tuple(all_[:n])))
disks = st.builds(
    DiskFacts,
    vm=st.sampled_from(["web", "proxy-vm"]),
    vm_id=st.just("id"),
    datastore=st.sampled_from(STORES),
    kind=st.sampled_from(["", "VMFS", "NFS", "NFS41", "vsan", "VVOL", "OTHER"]),
    delta=st.booleans(),
)
proxies = st.builds(
    ProxyOptions,
    vm=st.sampled_from(["", "proxy-vm"]),
    mounts=st.dictionaries(st.sampled_from(STORES), st.just("/mnt/store")),
    vddk=st.booleans(),
)


@given(orders, disks, proxies)
def test_ways_are_those_that_the_proxy_has_in_the_order_that_is_wanted(
    order: tuple[Transport, ...], disk: DiskFacts, proxy: ProxyOptions
) -> None:
    choice = choose(order, disk, proxy)
    assert list(choice.ways) == [way for way in order if way in choice.ways]
    assert not set(choice.ways) & set(choice.refused)
    if disk.delta or disk.kind in ("vsan", "VVOL"):
        assert not set(choice.ways) & set(FILES), "what is no file was to be read as one"
    else:
        assert (Transport.HTTPS in choice.ways) == (Transport.HTTPS in order), "everybody reaches the server"
    if Transport.HOTADD in choice.ways:
        assert proxy.vm and proxy.vm != disk.vm, "a VM cannot attach its own disk a second time"
    assert not {Transport.SAN, Transport.NFS} <= set(choice.ways)
    if set(choice.ways) & {Transport.SAN, Transport.NFS}:
        assert disk.datastore in proxy.mounts
    assert (Transport.NBD in choice.ways) == (proxy.vddk and Transport.NBD in order)
    assert choice.ways or choice.reason
    attempts = [turned(choice.ways, attempt) for attempt in range(len(choice.ways))]
    assert [ways[0] for ways in attempts] == list(choice.ways), "each attempt begins with another way"
    assert all(sorted(ways) == sorted(choice.ways) for ways in attempts), "no way is lost"


@given(orders, disks, st.dictionaries(st.sampled_from("abcd"), proxies))
def test_near_proxies_have_a_better_way_than_one_of_which_nothing_is_said(
    order: tuple[Transport, ...], disk: DiskFacts, known: dict[str, ProxyOptions]
) -> None:
    groups = nearest(order, disk, known)
    usual = choose(order, disk, ProxyOptions()).ways
    rank = {name: order.index(ways[0]) for name, proxy in known.items() if (ways := choose(order, disk, proxy).ways)}
    told = [name for group in groups for name in group]
    assert sorted(told) == sorted(name for name in rank if not usual or rank[name] < order.index(usual[0]))
    assert [rank[name] for name in told] == sorted(rank[name] for name in told)
    assert all(len({rank[name] for name in group}) == 1 for group in groups), "a group has one way"


def test_urls_of_each_way() -> None:
    assert device_url("6000C298-2F3C-AB00-0000-0123456789AB") == (
        "block:/dev/disk/by-id/wwn-0x6000c2982f3cab0000000123456789ab?wait=30"
    )
    assert mounted_url("/mnt/nfs store/", "web 1/web.vmdk") == "file:/mnt/nfs%20store/web%201/web-flat.vmdk"
    url = parse_disk_url(vddk_url("VC.example", 443, "vm-1", "snapshot-2", "[fast] web/web-000001.vmdk"))
    assert (url.scheme, url.origin, url.path) == (DiskScheme.VDDK, "vddk://vc.example", "/[fast] web/web-000001.vmdk")
    assert (url.option("vm"), url.option("snapshot")) == ("vm-1", "snapshot-2")


@pytest.mark.parametrize("path", ["mnt", "/mnt/../etc"])
def test_a_mount_is_an_absolute_path(path: str) -> None:
    with pytest.raises(ValueError, match="absolute path for fast"):
        ProxyOptions(mounts={"fast": path})


def test_the_example_names_proxies_and_refuses_what_it_does_not_know() -> None:
    example = Path(__file__).parents[2] / "configs" / "vsphere.toml"
    table = read_toml(example)["servers"]["prod"]["options"]
    options = convert(table, VsphereOptions, "example")
    assert options.proxies["proxy1"] == ProxyOptions("backup-proxy-1", {"nfs-1": "/mnt/nfs-1"})
    assert options.transports == (Transport.HOTADD, Transport.SAN, Transport.NFS, Transport.HTTPS, Transport.NBD)
    with pytest.raises(UnknownConfigKey, match=r"proxies\.proxy1\.mount\b.*'mounts'"):
        convert(table | {"proxies": {"proxy1": {"mount": {}}}}, VsphereOptions, "example")
