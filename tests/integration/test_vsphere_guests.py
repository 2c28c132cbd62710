"""Programs in guests by VMware Tools, and the guest processor that works by them.

The simulator's guest is this machine (``lab/container.sh``): files are made and programs run for real, by its own
implementation of guest operations. Only its /dev/shm is a folder of the tests: others run on this machine, too.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import GuestProcessingFailed
from holdfast_plugins.api import ConsistencyLevel, GuestAccess, InGuest, VmInfo
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.vmware_tools import VmwareToolsProcessor
from holdfast_plugins.hypervisors.vsphere import VsphereDriver
from lab.guest_access import NoAccess
from lab.tools import missing
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import machine_of, options_of, reconfigured, run_task, secret_of, service_of

MIB = 1 << 20
OURS = re.compile(r"holdfast(\.[A-Za-z0-9]{8}|-[0-9a-f]{16}\..*|-put)$")
IN_GUEST = Path("/dev/shm")  # noqa: S108 (the fixture `memory`, as the guest sees it)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        missing("only root gives the guest a /dev/shm of its own")
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def center(memory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenter]:
    tools = tmp_path_factory.mktemp("tools")
    (tools / "docker").symlink_to(Path(__file__).parents[1] / "lab" / "container.sh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tools), prepend=":")
        patch.setenv("GUEST_MEMORY", str(memory))
        with vcenter() as made:
            yield made


@pytest.fixture(scope="module")
def vm(center: VCenter) -> LabVm:
    made = center.create("guest", [MIB], off=True)
    reconfigured(center, made, {"RUN.container": "lab", "RUN.mountdmi": "false"})
    with service_of(center) as service:
        run_task(machine_of(service, made).PowerOnVM_Task())
    return made


@pytest.fixture
def driver(center: VCenter, vm: LabVm, memory: Path) -> Iterator[VsphereDriver]:
    assert vm
    secret = secret_of(center) | {"guest_user": "root", "guest_password": "of the guest"}
    made = VsphereDriver(options_of(center), secret)
    made.connect()
    yield made
    made.close()
    assert left(memory) == set(), "something stays in the guest"


def left(memory: Path) -> set[Path]:
    return {each for each in memory.iterdir() if OURS.match(each.name)}


class ToolsAccess(NoAccess):
    """What a session gives a guest processor."""

    def __init__(self, guest: InGuest) -> None:
        self._guest = guest

    def programs(self) -> InGuest:
        return self._guest


def info(driver: VsphereDriver) -> VmInfo:
    return driver.vm_info(next(each for each in driver.list_vms() if each.name == "guest"))


def guest_of(driver: VsphereDriver) -> InGuest:
    return driver.programs(info(driver).ref)


def access(driver: VsphereDriver) -> GuestAccess:
    return ToolsAccess(guest_of(driver))


def test_a_program_tells_what_it_printed_and_how_it_ended(driver: VsphereDriver) -> None:
    done = guest_of(driver).run(["sh", "-c", 'echo "it\'s $1"; echo wrong >&2; exit 3', "sh", 'a "b" $HOME;'], 20)
    assert (done.code, done.output, done.errors) == (3, 'it\'s a "b" $HOME;\n', "wrong\n")


def test_a_program_that_takes_too_long_is_ended(driver: VsphereDriver) -> None:
    with pytest.raises(GuestProcessingFailed, match=r"has not ended within 0\.3 s"):
        guest_of(driver).run(["sleep", "2"], 0.3)


def test_a_file_is_put_and_run(driver: VsphereDriver, memory: Path) -> None:
    guest, path = guest_of(driver), IN_GUEST / "holdfast-put"
    content = b"#!/bin/sh\necho \xc3\xa4\n" * 5
    guest.put(str(path), content)
    assert (memory / path.name).read_bytes() == content
    assert guest.run(["sh", str(path)], 20).output == "ä\n" * 5
    assert guest.run(["rm", "-f", str(path)], 20).code == 0


@pytest.mark.parametrize("method", ["StartProgramInGuest", "InitiateFileTransferFromGuest"])
def test_a_refusal_is_told_in_the_servers_words(center: VCenter, driver: VsphereDriver, method: str) -> None:
    guest = guest_of(driver)
    with center.faults(Fault(method, "GuestPermissionDenied")), pytest.raises(GuestProcessingFailed, match="Denied"):
        guest.run(["true"], 20)


def test_without_tools_or_credentials_nothing_is_tried(center: VCenter, driver: VsphereDriver) -> None:
    center.create("bare", [MIB])
    bare = next(each for each in driver.list_vms() if each.name == "bare")
    with pytest.raises(GuestProcessingFailed, match="Tools do not run"):
        driver.programs(bare)
    poor = VsphereDriver(options_of(center), secret_of(center))
    poor.connect()
    with pytest.raises(GuestProcessingFailed, match="guest_user"):
        poor.programs(info(driver).ref)
    poor.close()


def test_scripts_run_before_and_after_and_leave_nothing(driver: VsphereDriver, memory: Path, tmp_path: Path) -> None:
    trace = memory / "trace"
    for phase in ("pre", "post"):
        (tmp_path / phase).write_text(f"#!/bin/sh\necho $HOLDFAST_PHASE $HOLDFAST_VM >>{IN_GUEST / trace.name}\n")
    options = GuestOptions(
        pre_freeze=str(tmp_path / "pre"), post_thaw=str(tmp_path / "post"), databases=(),
        consistency=ConsistencyLevel.APPLICATION,
    )  # fmt: skip
    processor = VmwareToolsProcessor(options, {})
    held = processor.freeze(info(driver), access(driver), 30)
    assert (held.consistency, held.shortfall) == (ConsistencyLevel.APPLICATION, "")
    assert trace.read_text() == "pre-freeze guest\n"
    held.thaw()
    held.thaw()
    assert trace.read_text() == "pre-freeze guest\npost-thaw guest\n"
    processor.close()


def test_file_systems_are_the_snapshots_business(driver: VsphereDriver) -> None:
    processor = VmwareToolsProcessor(GuestOptions(databases=()), {})
    held = processor.freeze(info(driver), access(driver), 30)
    assert held.consistency is ConsistencyLevel.CRASH
    processor.close()  # lets go of what nobody let go


def test_a_script_that_fails_is_told_and_cleaned_up(driver: VsphereDriver, tmp_path: Path) -> None:
    script = tmp_path / "pre"
    script.write_text("#!/bin/sh\necho the reason >&2\nexit 7\n")
    processor = VmwareToolsProcessor(GuestOptions(pre_freeze=str(script), databases=()), {})
    with pytest.raises(GuestProcessingFailed, match="exit code 7; its last words: the reason"):
        processor.freeze(info(driver), access(driver), 30)


def test_a_hold_that_took_too_long_is_told(driver: VsphereDriver, memory: Path) -> None:
    """The watchdog in the guest has let go by then, whatever became of this host."""
    processor = VmwareToolsProcessor(GuestOptions(databases=(), freeze_limit=1), {})
    held = processor.freeze(info(driver), access(driver), 30)
    while not any((each / "fired").exists() for each in left(memory)):
        time.sleep(0.01)  # the test's own time-out ends it
    with pytest.raises(GuestProcessingFailed, match="the deadline passed"):
        held.thaw()
