"""The command of a restored VM: the original's hardware, other images, nothing that the original has for itself."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from holdfast_plugins.hypervisors.qemu.inventory import Description, Disk
from holdfast_plugins.hypervisors.qemu.start_command import Renewed, Served, start_file

IMAGE = "/vms/web/ro,ot.qcow2"
ESCAPED = IMAGE.replace(",", ",,")
DISK = Disk("root", "/machine/peripheral/root/virtio-backend", "disk-node", "qcow2", 1 << 20, IMAGE, True)
UUID = "6d6c8a6e-3b0f-4a87-9d2f-33f1d3c7d8b1"
MAC = "mac=52:54:00:00:00:01"


SERVED = Served("/run/a,b.sock", "root")
OVER_NBD = "driver=nbd,{0}server.type=unix,{0}server.path=/run/a,,b.sock,{0}export=root,{0}reconnect-delay=5"


def command(*words: str, fresh: bool = True, image: str | Served = "root,1.raw") -> list[str]:
    description = Description("web", UUID, "7.2.22", (DISK,), ("qemu-system-x86_64", *words))
    text = start_file(description, Renewed("web2" if fresh else "web", {"root": image}, fresh))
    body = text.partition("exec ")[2]
    assert text.startswith("#!/bin/sh\n") and 'cd "$(dirname "$0")" || exit 1' in text
    return shlex.split(body.replace("\\\n", " "))[1:]


@pytest.mark.parametrize(
    ("option", "value", "becomes"),
    [
        ("-blockdev", f"driver=file,filename={ESCAPED},node-name=f", "driver=file,filename=root,,1.raw,node-name=f"),
        (
            "-blockdev",
            "driver=qcow2,node-name=disk-node,lazy-refcounts=on,discard=unmap,file=f",
            "driver=raw,node-name=disk-node,discard=unmap,file=f",
        ),
        (
            "-blockdev",
            f"driver=qcow2,node-name=disk-node,file.driver=file,file.filename={ESCAPED}",
            "driver=raw,node-name=disk-node,file.driver=file,file.filename=root,,1.raw",
        ),
        (
            "-drive",
            f"if=none,id=d,file={ESCAPED},format=qcow2,cache=none",
            "file=root,,1.raw,format=raw,if=none,id=d,cache=none",
        ),
        ("-drive", "if=pflash,file=/usr/share/CODE.fd,format=raw", "if=pflash,file=/usr/share/CODE.fd,format=raw"),
        ("-qmp", "unix:/run/vms/web.qmp,server=on,wait=off", "unix:web.qmp,server=on,wait=off"),
        ("-chardev", "socket,id=qga,path=/run/vms/web.qga,server=on", "socket,id=qga,path=web.qga,server=on"),
        ("-pidfile", "/run/web.pid", "web.pid"),
        ("-m", "4096", "4096"),
        ("-device", "virtio-blk-pci,drive=disk-node,id=root", "virtio-blk-pci,drive=disk-node,id=root"),
        ("-name", "web,process=web", "guest=web2"),
        ("-kernel", "/boot/vmlinuz", "/boot/vmlinuz"),
    ],
)
def test_options(option: str, value: str, becomes: str) -> None:
    assert command(option, value) == [option, becomes]


def test_a_node_as_json() -> None:
    node = {
        "driver": "qcow2",
        "node-name": "disk-node",
        "l2-cache-size": 1,
        "file": {"driver": "file", "filename": IMAGE},
    }
    _, made = command("-blockdev", json.dumps(node))
    wanted = {"driver": "raw", "node-name": "disk-node", "file": {"driver": "file", "filename": "root,1.raw"}}
    assert json.loads(made) == wanted


def test_a_new_vm_gets_an_identity_of_its_own_and_a_replaced_one_keeps_it() -> None:
    words = ("-uuid", UUID, "-device", f"virtio-net-pci,netdev=n,{MAC}")
    assert command(*words, fresh=False) == list(words)
    new = command(*words)
    assert new[1] != UUID and re.fullmatch(r"[0-9a-f-]{36}", new[1])
    assert MAC not in new[3] and re.search(r"mac=52:54:00(:[0-9a-f]{2}){3}$", new[3])


def test_how_one_run_began_is_left_out() -> None:
    assert command("-S", "-incoming", "defer", "--daemonize", "-nodefaults") == ["--daemonize", "-nodefaults"]


def test_nothing_in_it_is_the_shells() -> None:
    assert command("-append", "x; $(touch /tmp/owned) `id` 'quoted'") == [
        "-append",
        "x; $(touch /tmp/owned) `id` 'quoted'",
    ]


def test_a_vm_whose_command_is_not_known_gets_its_disks() -> None:
    text = start_file(None, Renewed("web, a=b", {"a": "a.raw", "b": "b.raw"}, True))
    assert "is not known" in text and "guest=web,, a=b" in text
    assert text.count("-blockdev") == text.count("virtio-blk-pci") == 2


@pytest.mark.parametrize(
    ("option", "value", "becomes"),
    [
        (
            "-blockdev",
            f"driver=file,filename={ESCAPED},node-name=f,aio=io_uring,cache.direct=on",
            "node-name=f,cache.direct=on," + OVER_NBD.format(""),
        ),
        (
            "-blockdev",
            f"driver=qcow2,node-name=disk-node,file.driver=file,file.filename={ESCAPED},file.locking=off",
            "driver=raw,node-name=disk-node,file." + OVER_NBD.format("file."),
        ),
        ("-hda", IMAGE, str(SERVED)),
        ("-drive", f"if=ide,file={ESCAPED},format=qcow2", f"file={str(SERVED).replace(',', ',,')},format=raw,if=ide"),
    ],
)
def test_a_disk_that_is_served_is_found_wherever_its_image_was_named(option: str, value: str, becomes: str) -> None:
    words = command(option, value, image=SERVED)
    assert words[:2] == [option, becomes]
    assert "virtio-blk-device.werror=stop" in words


def test_a_disk_that_is_served_is_found_in_json_too() -> None:
    node = {"driver": "qcow2", "node-name": "disk-node", "file": {"driver": "file", "filename": IMAGE, "aio": "native"}}
    made = json.loads(command("-blockdev", json.dumps(node), image=SERVED)[1])
    assert made == {"driver": "raw", "node-name": "disk-node", "file": SERVED.node}
