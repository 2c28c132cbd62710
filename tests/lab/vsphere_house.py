"""A whole Holdfast whose server is a simulated vCenter."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.installation import Installation
from lab.processes import MOVER, children
from lab.vcenter import VCenter

_POLL_S = 0.01


class VsphereHouse(Installation):
    """The agent may read and write disks of the vCenter, which is the server ``vc``. Repository ``main``, encrypted."""

    def __init__(self, home: Path, center: VCenter, slots: int = 4, paths: Sequence[str] = ()) -> None:
        """``paths``: where the agent may open disks besides."""
        super().__init__(home, slots)
        self.center = center
        text = self.agent_config.read_text()
        text = text.replace("[proxy]\n", f'[proxy]\nservers = ["{center.origin}"]\n')
        more = "".join(f', "{path}"' for path in paths)
        self.agent_config.write_text(text.replace(f'paths = ["{home}"]', f'paths = ["{home}"{more}]', 1))

    def begin(self, *options: str) -> None:
        """Enrol everything. ``options``: more for the server, as "key=value"."""
        self.enrol()
        secret = self.home / "secret"
        secret.touch(0o600)
        secret.write_text(f"user={self.center.user}\npassword={self.center.password}\n")
        pin = self.center.certificates.fingerprint
        words = (f"host={self.center.host}", f"port={self.center.port}", f"certificate_sha256={pin}", "min_free_gib=0")
        named = [word for option in (*words, *options) for word in ("--option", option)]
        self.holdfast("server", "add", "vc", "--plugin", "vsphere", *named, "--secret-file", secret)
        self.add_repository("main", encrypted=True)

    def add_vsphere_job(self, name: str, include: str, *options: str) -> None:
        self.holdfast("job", "create", name, "--server", "vc", "--include", include, "--repository", "main", *options)

    def movers(self) -> list[int]:
        """The movers that the agent has at work."""
        return children(self.agent.pid, MOVER) if self.agent is not None else []

    def reading(self, session: int) -> list[int]:
        """The movers of a session, once they read."""
        while True:
            shown = self.holdfast("session", "show", str(session))
            assert shown["state"] != "ended", shown
            if any(disk["counters"]["read_bytes"] for disk in shown["disks"]):
                return self.movers()
            time.sleep(_POLL_S)

    def restored(self, vm: str, sid: str, disk: str) -> bytes:
        """A disk of a restore point, as it comes back."""
        to = self.out / f"{sid}-{disk.replace(':', '-')}"
        self.restore_disk(vm, sid, to, "--disk", disk)
        return to.read_bytes()


@contextlib.contextmanager
def vsphere_house(
    home: Path, center: VCenter, *options: str, slots: int = 4, paths: Sequence[str] = ()
) -> Iterator[VsphereHouse]:
    house = VsphereHouse(home, center, slots, paths)
    try:
        house.begin(*options)
        yield house
    finally:
        house.stop_agent()
