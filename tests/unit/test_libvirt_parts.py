"""The parts of the hypervisor `libvirt` that need no libvirt: XML, options, names, and calls that hang."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import DiskUnsupported, HypervisorUnreachable
from holdfast_plugins.hypervisors.image_locks import ImageKept
from holdfast_plugins.hypervisors.image_server import ImageServers
from holdfast_plugins.hypervisors.libvirt import LibvirtOptions
from holdfast_plugins.hypervisors.libvirt.connection import Connection
from holdfast_plugins.hypervisors.libvirt.definition import disks_of
from holdfast_plugins.hypervisors.libvirt.liveness import Alive, is_alive
from holdfast_plugins.hypervisors.libvirt.promises import parse_promised
from holdfast_plugins.hypervisors.libvirt.restored_xml import NewDisk, NewIdentity, plain, restored
from lab.tools import require_tool

EXAMPLE = Path(__file__).parents[2] / "configs" / "libvirt.toml"
XML = """<domain type='kvm' id='7'><name>web</name><uuid>11111111-2222-4333-8444-555555555555</uuid>
<genid>aaaaaaaa-2222-4333-8444-555555555555</genid>
<os><type arch='x86_64'>hvm</type><nvram template='/t'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram></os>
<sysinfo type='smbios'><system><entry name='uuid'>11111111-2222-4333-8444-555555555555</entry></system></sysinfo>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/i/web.qcow2' index='2'/>
<backingStore type='file' index='3'><format type='raw'/><source file='/i/base.raw'/><backingStore/></backingStore>
<target dev='vda' bus='virtio'/><serial>ONE</serial></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg/data'/>
<mirror type='file' job='active-commit' ready='yes'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='cdrom'><source file='/i/install.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='vdc' bus='virtio'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/></interface></devices></domain>"""
LUN = "<domain><devices><disk type='block' device='lun'><target dev='sdb'/></disk></devices></domain>"


def test_disks_are_told_with_their_layers_and_media_are_not() -> None:
    vda, vdb, vdc = disks_of(XML)
    assert [layer.place for layer in vda.layers] == ["/i/web.qcow2", "/i/base.raw"]
    assert (vda.tracks, vdb.tracks, vdc.tracks) == (True, False, False)
    assert (vdb.top.kind, vdb.top.place, vdb.mirror) == ("block", "/dev/vg/data", "active-commit")
    assert (vdc.top.format, vdc.top.place) == ("raw", "")
    assert [disk.target for disk in disks_of(XML, lambda target: target == "vdb")] == ["vda", "vdc"]


def test_a_disk_whose_content_qemu_does_not_see_is_refused_unless_it_is_left_out() -> None:
    with pytest.raises(DiskUnsupported, match="device='lun'"):
        disks_of(LUN)
    assert disks_of(LUN, lambda target: target == "sdb") == []
    assert disks_of(LUN, refuse=False)[0].target == "sdb"


@pytest.mark.parametrize("text", ["", "<domain>", "x" * (5 << 20)])
def test_what_is_no_xml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"no XML|more than"):
        disks_of(text)


def test_a_restored_definition_has_the_new_disks_and_no_trace_of_the_old() -> None:
    disks = [NewDisk("vda", "/new/a&b'.qcow2", "qcow2"), NewDisk("vdz", "/new/z.qcow2", "qcow2")]
    made = restored(XML, NewIdentity("again", own=False), disks, None)
    assert [(disk.target, disk.top.place, len(disk.layers)) for disk in disks_of(made)] == [
        ("vda", "/new/a&b'.qcow2", 1),
        ("vdz", "/new/z.qcow2", 1),
    ]
    for gone in ("/i/", "/dev/vg", "rbd", "11111111", "aaaaaaaa", "52:54", "mirror", "web_VARS", " id="):
        assert gone not in made, gone
    assert "ONE" in made and 'cache="none"' in made and "cdrom" in made


def test_a_definition_that_keeps_its_identity_says_so_everywhere() -> None:
    uuid = "99999999-2222-4333-8444-555555555555"
    made = restored(XML, NewIdentity("web", uuid), [NewDisk("vda", "/new/a", "raw")], Path("/new/vars"))
    assert made.count(uuid) == 2 and "52:54:00:00:00:01" in made and ">/new/vars<" in made


def test_disks_of_another_hypervisor_get_a_plain_definition() -> None:
    disks = [NewDisk("root.raw", "/new/root", "qcow2"), NewDisk("vda", "/new/a", "qcow2")]
    made = plain("from-images", "qemu", disks)
    assert [(disk.target, disk.top.place) for disk in disks_of(made)] == [("vda", "/new/root"), ("vdb", "/new/a")]


def test_every_option_stands_in_the_example_with_its_default() -> None:
    text = EXAMPLE.read_text()
    table = text[text.index("[servers.kvm1.options]") :]
    shown = tomllib.loads("\n".join(re.findall(r"^# (\w+ = .*)$", table, re.MULTILINE)))
    assert set(shown) == set(LibvirtOptions.__struct_fields__)
    assert msgspec.convert(shown, LibvirtOptions) == LibvirtOptions()


@pytest.mark.parametrize(
    "options",
    [
        {"scratch_dir": "relative"},
        {"restore_dir": "/a/../b"},
        {"scratch_dir": "/" + "x" * 80},
        {"restore_format": "vmdk"},
        {"nbd_ports": "10-5"},
        {"nbd_ports": "0-70000"},
        {"nbd_host": "a b"},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must|too long"):
        LibvirtOptions(**options)  # type: ignore[arg-type]


def test_disks_are_skipped_by_pattern() -> None:
    options = LibvirtOptions(skip=("db-*/vdb", "*/sdz"))
    assert options.skips("db-1", "vdb") and options.skips("web", "sdz")
    assert not options.skips("web", "vdb") and not options.skips("db-1", "vda")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../etc/passwd"},
        {"name": "somebody-elses"},
        {"directory": "relative"},
        {"directory": "/srv/../etc"},
        {"targets": '["../x"]'},
        {"targets": "nothing"},
        {"method": "reflink"},
    ],
)
def test_an_obligation_that_is_not_of_this_plugin_is_refused(change: dict[str, str]) -> None:
    name = "holdfast-00000000-00000000-000000000000"
    data = {"vm": "1", "name": name, "method": "backup", "directory": "/srv", "targets": json.dumps(["vda"])}
    assert parse_promised(data) is not None
    assert parse_promised(data | change) is None


def test_a_call_that_hangs_is_left_behind() -> None:
    pytest.importorskip("libvirt", reason="libvirt-python is not installed: pip install libvirt-python")
    connection, hang = Connection("qemu:///system", {}, 0.05), threading.Event()
    with pytest.raises(HypervisorUnreachable, match=r"has not given an answer for 0\.05 s"):
        connection.call("an answer", hang.wait)
    hang.set()
    assert connection.call("an answer", lambda: 7) == 7


def test_a_lock_tells_the_living_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "life"
    assert not is_alive(path)
    alive = Alive(path)
    assert is_alive(path)
    alive.release()
    assert not path.exists()
    code = f"import os, pathlib, {Alive.__module__} as it; it.Alive(pathlib.Path({str(path)!r})); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert path.exists() and not is_alive(path), "its process is gone"


def test_an_image_that_is_kept_tells_when_it_was_written_to(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(4096))
    kept, again = ImageKept(image), ImageKept(image)
    before = kept.stamp
    assert again.stamp == before, "two readers get on with each other"
    again.release()
    kept.release()
    with image.open("r+b") as file:
        file.truncate(8192)
    changed = ImageKept(image)
    assert changed.stamp != before
    changed.release()


def test_an_image_that_is_not_wanted_after_all_is_closed_in_order(tmp_path: Path) -> None:
    """Whatever the moment: a server that listens only does not heed SIGTERM yet, and the restore would wait for it."""
    require_tool("qemu-nbd", "qemu-utils")
    servers = ImageServers()
    try:
        for number in range(8):
            image = tmp_path / f"{number}.qcow2"
            servers.create(image, 1 << 20, tmp_path / "s", "disk")
            servers.stop(image)
            assert not (tmp_path / "s").exists()
    finally:
        servers.close()
