"""A VM that moves between two hosts of libvirt: compared once where it comes to, tracked again, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from lab.installation import installed
from lab.libvirt_backups import DrivenBackups
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon

MIB = 1 << 20
UNKNOWN = "libvirt knows no checkpoint"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[LibvirtHost, LibvirtHost]]:
    with libvirt_daemon() as one, libvirt_daemon(beside=one) as other:
        yield one, other


@pytest.fixture(autouse=True)
def _cleared(hosts: tuple[LibvirtHost, LibvirtHost]) -> Iterator[None]:
    yield
    for host in hosts:
        host.clear()


def live(vm: LibvirtVm, host: LibvirtHost) -> None:
    vm.migrate(host, forgotten=True)


def shut_off(vm: LibvirtVm, host: LibvirtHost) -> None:
    """The host that it leaves keeps its definition, with the checkpoints that it had there."""
    vm.stop()
    vm.migrate(host, forgotten=False)
    vm.start()


@pytest.mark.parametrize(
    ("move", "reasons"), [(live, (UNKNOWN, UNKNOWN, UNKNOWN)), (shut_off, (UNKNOWN, "", UNKNOWN))], ids=["live", "off"]
)
def test_a_vm_that_moves_is_compared_once_and_tracked_again(
    hosts: tuple[LibvirtHost, LibvirtHost], move: Callable[[LibvirtVm, LibvirtHost], None], reasons: tuple[str, ...]
) -> None:
    """It passes through a host without a backup, and comes back to hosts that have seen it. Nothing is left.

    Where a host still knows its checkpoint, and the bitmap has gone on in the image meanwhile, that is believed.
    """
    one, other = hosts
    chance, vm = Random(8), one.vm("guest", {"vda": ("qcow2", MIB), "vdb": ("qcow2", MIB)}).start()
    backups = DrivenBackups(vm)
    backups.run()
    for ways, reason in zip(((other,), (one, other), (one,)), reasons, strict=True):
        for host in ways:
            vm.scribble(chance, 5)
            move(vm, host)
            vm.scribble(chance, 5)
        backups.follow()
        told = backups.run()
        assert all(reason in each and bool(reason) == bool(each) for each in told.values()), told
        vm.scribble(chance, 5)
        assert not any(backups.run().values()), "tracked again"
        assert all(names == vm.checkpoints() for names in vm.bitmaps().values()), "those of the other host are gone"
    assert len(vm.checkpoints()) == 1
    vm.stop()
    assert vm.bitmaps_in_images() == set(vm.checkpoints())
    assert not [*one.scratch.iterdir(), *other.scratch.iterdir()]
    backups.close()


def test_the_job_of_the_host_that_it_comes_to_compares_with_what_the_other_has_stored(
    hosts: tuple[LibvirtHost, LibvirtHost],
) -> None:
    chance, vm = Random(9), hosts[0].vm("guest", {"vda": ("qcow2", 4 * MIB)}).start()
    vm.write("vda", 0, chance.randbytes(2 * MIB))
    with installed(hosts[0].shared) as house:
        house.add_repository("both", encrypted=False)
        for number, host in enumerate(hosts):
            options = [word for key, value in host.options().items() for word in ("--option", f"{key}={value}")]
            house.holdfast("server", "add", f"kvm{number}", "--plugin", "libvirt", *options)
            job = ("--server", f"kvm{number}", "--include", "*", "--repository", "both", "--block-size", "64 KiB")
            house.holdfast("job", "create", f"job{number}", *job)
        house.run_job("job0")
        vm.scribble(chance, 5)
        vm.migrate(hosts[1], forgotten=True)
        (disk,) = house.run_job("job1")["disks"]
        assert disk["mode"] == "digest" and "the VM was on the server kvm0 then" in disk["reason"], disk
        assert disk["counters"]["sent_bytes"] < MIB, "what the repository has is not sent again"
        vm.scribble(chance, 5)
        (disk,) = house.run_job("job1")["disks"]
        assert disk["mode"] == "cbt", disk
        (newest, *_) = house.points("guest")
        house.restore_disk("guest", newest["sid"], house.out / "restored.raw")
        assert (house.out / "restored.raw").read_bytes() == vm.content["vda"]
