"""What the tests of drivers are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from holdfast_agent.errors import HoldfastError
from holdfast_plugins.api import HypervisorDriver, Journal, RestoreTarget, Snapshot, SnapshotRequest, VmInfo, VmRef

from ..journal import MemoryJournal, Obligation
from ..lab import HypervisorLab

MARK = b"written by the conformance suite"
NOBODY = VmRef("holdfast-no-such-vm", "holdfast-no-such-vm")
RESTORED = "holdfast-restored"
MAX_CONFIG_BYTES = 4 << 20
LONGEST_ID = 1024
Content = dict[str, bytes]
"""Of the disks by id."""


class Suite:
    """Fixtures of every part."""

    @pytest.fixture
    def driver(self, lab: HypervisorLab) -> Iterator[HypervisorDriver]:
        with connected(lab) as driver:
            yield driver

    @pytest.fixture
    def journal(self) -> MemoryJournal:
        return MemoryJournal()


@contextmanager
def connected(lab: HypervisorLab) -> Iterator[HypervisorDriver]:
    """A driver of its own, as another session has it."""
    driver = lab.driver()
    try:
        driver.connect()
        yield driver
    finally:
        driver.close()


def disk_ids(driver: HypervisorDriver, vm: VmRef) -> tuple[str, ...]:
    return tuple(disk.disk_id for disk in driver.vm_info(vm).disks)


def take(
    lab: HypervisorLab,
    driver: HypervisorDriver,
    journal: Journal,
    chosen: tuple[str, ...] = (),
    *,
    vm: VmRef | None = None,
    tag: str = "suite",
    since: dict[str, str] | None = None,
) -> Snapshot:
    """A snapshot of ``chosen`` disks, of all without."""
    vm = vm or lab.vm
    wanted = chosen or disk_ids(driver, vm)
    request = SnapshotRequest(vm, tag, wanted, lab.snapshot_options(), series="suite", since=since or {})
    return driver.create_snapshot(request, journal)


def content_of(lab: HypervisorLab, snapshot: Snapshot) -> Content:
    return {disk.disk_id: lab.read(disk.urls[0]) for disk in snapshot.disks}


def back_up(
    lab: HypervisorLab, driver: HypervisorDriver, journal: Journal, vm: VmRef | None = None
) -> tuple[VmInfo, Content]:
    """The VM's description and the content of its disks, through a snapshot that is gone again."""
    info = driver.vm_info(vm or lab.vm)
    snapshot = take(lab, driver, journal, vm=vm)
    try:
        return info, content_of(lab, snapshot)
    finally:
        driver.remove_snapshot(snapshot, committed=True, journal=journal)


def write_all(lab: HypervisorLab, target: RestoreTarget, content: Content) -> None:
    assert {disk.disk_id for disk in target.disks} == set(content)
    for disk in target.disks:
        lab.write_restored(disk, content[disk.disk_id])


def fulfil_twice(lab: HypervisorLab, obligations: Sequence[Obligation]) -> None:
    """As the next session does it: in another process, with a driver of its own, the latest first."""
    for _ in range(2):
        with connected(lab) as other:
            for obligation in reversed(obligations):
                other.fulfil(obligation.kind, obligation.data)


@contextmanager
def only_typed_errors(doing: str) -> Iterator[None]:
    """What is done may fail, but by an error of Holdfast's own that says why."""
    try:
        yield
    except HoldfastError as error:
        assert error.text.strip(), f"{doing} failed without a word"
    except Exception as error:
        raise AssertionError(f"{doing} raised {type(error).__name__}, which is no HoldfastError") from error


def needs_restore(lab: HypervisorLab) -> None:
    if not lab.restores:
        pytest.skip("nothing can be restored to this hypervisor")
