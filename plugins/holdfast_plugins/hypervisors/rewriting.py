"""Images of a VM that is off, to be rewritten where they lie by an agent on their host.

Nothing is made for it, so nothing is left behind. The locks that the agent's ``qemu-nbd`` takes keep the VM from being
started meanwhile.
"""

from __future__ import annotations

import secrets

from holdfast_agent.errors import DiskInUse
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl
from holdfast_plugins.api import RestoreDisk, RestoreTarget, VmRef

from .tracking_names import parse_tracking_name

_PREFIX = "in-place-"


def rewritten_image(disk_id: str, size_bytes: int, path: str, image_format: str, since: str = "") -> RestoreDisk:
    """A disk whose image lies at ``path``. ``since``: the change id of the point that is written over it; where that
    names a bitmap which the image keeps, only what the bitmap tells is compared."""
    options = [("format", image_format)]
    if image_format == "qcow2" and parse_tracking_name(since) is not None:
        options.insert(0, ("bitmap", since))
    url = DiskUrl(DiskScheme.IMAGE, path, tuple(options))
    return RestoreDisk(disk_id, disk_id, size_bytes, str(url), create=False)


def in_place(vm: VmRef, disks: tuple[RestoreDisk, ...]) -> RestoreTarget:
    """The target of a rollback."""
    return RestoreTarget(_PREFIX + secrets.token_hex(8), vm, disks)


def is_in_place(target: RestoreTarget) -> bool:
    """Whether it was made by :func:`in_place`."""
    return target.target_id.startswith(_PREFIX)


def runs(name: str, when: str) -> DiskInUse:
    """The error for a VM that is not off. ``when``: "now", or what it came in the way of."""
    return DiskInUse(url=f"the VM {name}", reason=f"it runs {when}; shut it down, and restore again")
