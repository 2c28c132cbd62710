"""What udev does in the guest of a proxy on vSphere: a device for each disk that is attached to its VM."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.devices import loop_device
from lab.tools import missing
from lab.vcenter import VCenter

BY_ID = Path("/dev/disk/by-id")
_POLL_S = 0.02


@contextmanager
def device(url: str, content: bytes | Path, folder: Path) -> Iterator[None]:
    """A device under the name that the disk URL ``url`` has, with a copy of ``content`` or over that very file."""
    link = Path(url.removeprefix("block:").partition("?")[0])
    image = content if isinstance(content, Path) else folder / link.name
    if isinstance(content, bytes):
        image.write_bytes(content)
    with loop_device(image) as path:
        BY_ID.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
        try:
            yield
        finally:
            link.unlink()


@contextmanager
def guest_of(center: VCenter, proxy: str, content: Callable[[str], bytes | Path], folder: Path) -> Iterator[None]:
    """The VM ``proxy`` sees what is attached to it until it is detached. ``content``: of a disk's file."""
    if os.geteuid() != 0:
        missing("the devices of a proxy need root")
    over, own = threading.Event(), set(center.state()["machines"][proxy]["uuids"])

    def watch() -> None:
        seen: dict[str, ExitStack] = {}
        while not over.wait(_POLL_S):
            told = center.state()["machines"][proxy]
            attached = dict(zip(told["uuids"], told["disks"], strict=True))
            for uuid in attached.keys() - seen.keys() - own:
                seen[uuid] = ExitStack()
                name = f"block:{BY_ID}/wwn-0x{uuid.replace('-', '').lower()}"
                seen[uuid].enter_context(device(name, content(attached[uuid]), folder))
            for uuid in seen.keys() - attached.keys():
                seen.pop(uuid).close()
        for stack in seen.values():
            stack.close()

    thread = threading.Thread(target=watch, name="guest of a proxy")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
