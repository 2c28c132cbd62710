"""The command by which a restored VM is started, made of the one by which the original was.

It is written beside the restored images and started there, so that names in it are relative. What the original has
for itself alone (sockets, pid file) goes to that folder too: a QEMU that is started takes over the sockets at its paths
from whoever listens there.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from .firmware import file_names
from .inventory import Description

_OWN_SOCKETS = re.compile(r"(?<![\w-])((?:unix:|path=))(/[^,]+)")
_PLACES = frozenset({"-qmp", "-qmp-pretty", "-monitor", "-mon", "-serial", "-parallel", "-chardev", "-vnc", "-gdb"})
_OWN_FILES = frozenset({"-pidfile", "-D"})
_DROPPED = frozenset({"-incoming", "-loadvm"})
"""With their value: they say how that one run of the original began."""
_DROPPED_ALONE = frozenset({"-S", "-snapshot"})
_MAC = re.compile(r"(?<![\w-])mac=[0-9A-Fa-f:]{17}")
_RAW_KEYS = re.compile(
    r"(driver|node-name|file|discard|detect-zeroes|read-only|auto-read-only|cache|force-share)([.].*)?"
)
"""What the node of a raw image may have of what that of a qcow2 image has."""


_ANY_KEYS = re.compile(r"(node-name|discard|detect-zeroes|read-only|auto-read-only|cache|force-share)([.].*)?")
"""What a node of any kind may have."""
_RECONNECT_S = 5
"""A server that is restarted is away for a moment; after that the guest is paused rather than let wait."""
_DISK_CLASSES = ("virtio-blk-device", "scsi-hd", "ide-hd")


class Served(msgspec.Struct, frozen=True):
    """A disk that comes over NBD from a Unix socket."""

    socket: str
    export: str

    @property
    def node(self) -> dict[str, Any]:
        """As `-blockdev` takes it."""
        server = {"type": "unix", "path": self.socket}
        return {"driver": "nbd", "server": server, "export": self.export, "reconnect-delay": _RECONNECT_S}

    def __str__(self) -> str:
        """As options that take a file name take it."""
        return "json:" + json.dumps({"driver": "raw", "file": self.node})


class Renewed(msgspec.Struct, frozen=True):
    """What differs from the original. ``images``: by disk, the file in the VM's folder, or who serves it. ``fresh``: it
    gets an identity of its own, because the original may still be there. ``monitor``: a socket for one more monitor.
    """

    name: str
    images: Mapping[str, str | Served]
    fresh: bool
    monitor: str = ""


def start_file(description: Description | None, renewed: Renewed) -> str:
    """The text of a shell script that starts the VM in the folder where it lies."""
    words = _rewritten(description, renewed) if description is not None and description.command else _plain(renewed)
    if renewed.monitor:
        words += ["-qmp", f"unix:{_escaped(renewed.monitor)},server=on,wait=off"]
    if any(isinstance(image, Served) for image in renewed.images.values()):
        # A guest that cannot reach its disk is paused, and told nothing.
        policies = ((each, event) for each in _DISK_CLASSES for event in ("werror", "rerror"))
        words += [word for each, event in policies for word in ("-global", f"{each}.{event}=stop")]
    lines = " \\\n    ".join(shlex.quote(word) for word in words)
    told = "" if description is not None and description.command else _UNKNOWN
    return f'#!/bin/sh\n# Starts the restored VM.{told}\ncd "$(dirname "$0")" || exit 1\nexec {lines}\n'


_UNKNOWN = " How the original was started is not known: see to its hardware (-accel kvm, -m, -smp, -nic, -vnc)."
_FIRST_SLOT, _FUNCTIONS = 4, 8
"""Of q35's bus: slots below are others'. Without the functions of each slot 28 disks would be the most."""


def _plain(renewed: Renewed) -> list[str]:
    words = ["qemu-system-x86_64", "-machine", "q35", "-m", "2048", "-smp", "2", "-name", _guest(renewed.name)]
    words += ["-nic", "none", "-vnc", "unix:vm.vnc", "-qmp", "unix:vm.qmp,server=on,wait=off"]
    words += ["-chardev", "socket,path=vm.qga,server=on,wait=off,id=qga", "-device", "virtio-serial-pci,addr=3"]
    words += ["-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"]
    for number, image in enumerate(renewed.images.values()):
        file = image.node if isinstance(image, Served) else {"driver": "file", "filename": image}
        words += ["-blockdev", json.dumps({"driver": "raw", "node-name": f"disk{number}", "file": file})]
        words += ["-device", f"virtio-blk-pci,drive=disk{number},id=disk{number},{_place(number)}"]
    return words


def _place(number: int) -> str:
    """Of a disk on the bus, and among what the guest may boot from."""
    slot, function = divmod(number, _FUNCTIONS)
    return f"addr={_FIRST_SLOT + slot:#x}.{function},multifunction=on,bootindex={number}"


def _rewritten(description: Description, renewed: Renewed) -> list[str]:
    program, *rest = description.command
    words, left = [program], list(rest)
    while left:
        word = left.pop(0)
        option = f"-{word.lstrip('-')}"
        if option in _DROPPED_ALONE:
            continue
        if not word.startswith("-") or not left or left[0].startswith("-"):
            words.append(str(_image_of(description, renewed, word) or word))
            continue
        value = left.pop(0)
        if option not in _DROPPED:
            words += [word, _value(description, renewed, option, value)]
    return words


def _value(description: Description, renewed: Renewed, option: str, value: str) -> str:
    if option == "-name":
        return _guest(renewed.name)
    if option == "-uuid":
        return str(uuid.uuid4()) if renewed.fresh else value
    if option in _OWN_FILES:
        return PurePosixPath(value).name
    if option in _PLACES:
        return _OWN_SOCKETS.sub(lambda found: found[1] + PurePosixPath(found[2]).name, value)
    if option == "-blockdev":
        return _block_node(description, renewed, value)
    if option == "-drive":
        return _drive(description, renewed, value)
    if renewed.fresh and option in ("-device", "-nic", "-net"):
        return _MAC.sub(lambda _: f"mac={_new_mac()}", value)
    return str(_image_of(description, renewed, value) or value)


def _image_of(description: Description, renewed: Renewed, path: str) -> str | Served | None:
    """What stands for the original image at ``path``, of a disk or of the firmware's variables."""
    for disk in description.disks:
        if disk.image == path:
            return renewed.images.get(disk.disk_id)
    return file_names(description.firmware).get(path)


def _block_node(description: Description, renewed: Renewed, value: str) -> str:
    """A `-blockdev`: a file that is a disk's image, the node of its format (which is raw now), or both in one."""
    if value.lstrip().startswith("{"):
        node = _nested(description, renewed, json.loads(value))
        return json.dumps(node)
    pairs = [part.partition("=") for part in _split(value)]
    options = {key: text for key, _, text in pairs}
    formatted = any(disk.node == options.get("node-name") for disk in description.disks)
    pairs = _over_nbd(description, renewed, pairs)
    made = []
    for key, _, text in pairs:
        if key.rpartition(".")[2] == "filename":
            text = str(_image_of(description, renewed, text) or text)
        if formatted and options.get("driver") != "file":
            if not _RAW_KEYS.fullmatch(key):
                continue
            text = "raw" if key == "driver" else text
        made.append(f"{key}={_escaped(text)}")
    return ",".join(made)


def _over_nbd(
    description: Description, renewed: Renewed, pairs: list[tuple[str, str, str]]
) -> list[tuple[str, str, str]]:
    """The options of a node, where that of a file that is served becomes one of NBD."""
    for key, _, text in pairs:
        image = _image_of(description, renewed, text) if key.rpartition(".")[2] == "filename" else None
        if isinstance(image, Served):
            prefix = key.removesuffix("filename")
            others = [
                each
                for each in pairs
                if not each[0].startswith(prefix) or _ANY_KEYS.fullmatch(each[0].removeprefix(prefix))
            ]
            return others + [(f"{prefix}{name}", "=", value) for name, value in _flat(image.node)]
    return pairs


def _flat(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", text) for inner, text in _flat(value))
        else:
            yield key, str(value)


def _nested(description: Description, renewed: Renewed, node: dict[str, Any]) -> dict[str, Any]:
    if any(disk.node == node.get("node-name") for disk in description.disks) and node.get("driver") != "file":
        node = {key: value for key, value in node.items() if _RAW_KEYS.fullmatch(key)} | {"driver": "raw"}
    image = _image_of(description, renewed, str(node.get("filename", "")))
    if isinstance(image, Served):
        return {key: value for key, value in node.items() if _ANY_KEYS.fullmatch(key)} | image.node
    made = {}
    for key, value in node.items():
        if key == "filename" and isinstance(value, str):
            value = image or value
        made[key] = _nested(description, renewed, value) if isinstance(value, dict) else value
    return made


def _drive(description: Description, renewed: Renewed, value: str) -> str:
    pairs = [part.partition("=") for part in _split(value)]
    image = next((_image_of(description, renewed, text) for key, _, text in pairs if key == "file"), None)
    if image is None:
        return value
    kept = [f"{key}={_escaped(text)}" for key, _, text in pairs if key not in ("file", "format")]
    return ",".join([f"file={_escaped(str(image))}", "format=raw", *kept])


def _split(value: str) -> Sequence[str]:
    """The parts of QEMU's ``key=value,key=value``, where a comma in a value is doubled."""
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]


def _guest(name: str) -> str:
    """As `-name` takes one that may hold "=" and ","."""
    return f"guest={_escaped(name)}"


def _escaped(text: str) -> str:
    return text.replace(",", ",,")


def _new_mac() -> str:
    """Of the range that is QEMU's own."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
