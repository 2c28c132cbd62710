"""What a session sees of a plugin that misbehaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import (
    ChangeTrackingLost,
    GuestAgentSilent,
    GuestProcessingFailed,
    PluginDefect,
    PluginHung,
    SnapshotFailed,
)
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.geometry import Extent
from holdfast_manager.host import boundary, guest_guard
from holdfast_manager.host.driver_guard import GuardedDriver
from holdfast_manager.host.guest_guard import GuardedAgentChannel, GuardedGuestProcessor, GuardedInGuest
from holdfast_manager.host.notifier_guard import GuardedNotifier
from holdfast_manager.host.tracker_guard import GuardedTracker
from holdfast_plugins.api import (
    DiskInfo,
    RestoreDisk,
    RestoreTarget,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)
from holdfast_plugins.testkit import MemoryJournal
from lab.guest_access import NoAccess

VM = VmRef("1", "web")
REQUEST = SnapshotRequest(VM, "tag", ("a", "b"))


def snapshot(**disks: str) -> Snapshot:
    urls = {name: ((url,) if url else ()) for name, url in disks.items()}
    return Snapshot("s", VM, tuple(SnapshotDisk(name, name, 512, url) for name, url in urls.items()))


class Odd:
    """A plugin's object, any method of which does what the test says."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*_: Any, **__: Any) -> Any:
            self.calls.append(name)
            answer = self._answers.get(name)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return method


def test_an_unexpected_exception_becomes_a_defect_of_the_plugin() -> None:
    driver = GuardedDriver("odd", Odd(list_vms=KeyError("name")))
    with pytest.raises(PluginDefect, match=r"'odd' broke its contract in list_vms: KeyError: 'name'") as caught:
        driver.list_vms()
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_on_purpose_passes_unchanged() -> None:
    error = SnapshotFailed(vm="web", reason="busy")
    with pytest.raises(SnapshotFailed) as caught:
        GuardedDriver("odd", Odd(create_snapshot=error)).create_snapshot(REQUEST, MemoryJournal())
    assert caught.value is error


def test_close_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    GuardedDriver("odd", Odd(close=RuntimeError("no"))).close()
    GuardedGuestProcessor("odd", Odd(close=RuntimeError("no"))).close()
    assert caplog.text.count("close of plugin odd raised") == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (snapshot(a="file:/a"), "other disks than asked for"),
        (snapshot(a="file:/a", b=""), "disk b has no URL"),
        (snapshot(a="file:/a", b="smb://b"), "not a disk URL"),
        (snapshot(a="file:/a", b="file:b"), "must be absolute"),
        (None, "AttributeError"),
    ],
)
def test_a_wrong_snapshot_is_refused_and_removed(answer: Snapshot | None, reason: str) -> None:
    plugin = Odd(create_snapshot=answer)
    with pytest.raises(PluginDefect, match=reason):
        GuardedDriver("odd", plugin).create_snapshot(REQUEST, MemoryJournal())
    assert plugin.calls == ["create_snapshot", "remove_snapshot"]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (VmInfo(VM, (DiskInfo("a", "a", 1), DiskInfo("a", "b", 1))), "not unique"),
        (VmInfo(VM, (DiskInfo("a", "a", -1),)), "negative"),
        (VmInfo(VM, (), config=bytes(5 << 20)), "exceeds"),
    ],
)
def test_wrong_facts_are_refused(info: VmInfo, reason: str) -> None:
    with pytest.raises(PluginDefect, match=reason):
        GuardedDriver("odd", Odd(vm_info=info)).vm_info(VM)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (ChangeTrackingLost(reason="the bitmap is gone"), "the bitmap is gone"),
        ([Extent(4096, 512), Extent(0, 512)], "do not ascend"),
        ([Extent(0, -1)], "do not ascend"),
    ],
)
def test_whatever_a_tracker_does_wrong_is_a_lost_change_id(answer: object, reason: str) -> None:
    tracker = GuardedTracker("odd", Odd(changed=answer, allocated=answer))
    with pytest.raises(ChangeTrackingLost, match=reason):
        tracker.changed(snapshot(), "a", "1")
    with pytest.raises(ChangeTrackingLost, match=reason):
        tracker.allocated(snapshot(), "a")


def test_a_tracker_may_say_that_it_cannot_tell() -> None:
    assert GuardedTracker("odd", Odd()).allocated(snapshot(), "a") is None


def test_a_handle_without_a_known_consistency_is_a_defect() -> None:
    class Handle:
        consistency = "perfect"

        @property
        def shortfall(self) -> str:
            raise KeyError("why")

        def thaw(self) -> None:
            raise OSError("gone")

    handle = GuardedGuestProcessor("odd", Odd(freeze=Handle())).freeze(VmInfo(VM, ()), NoAccess(), 10)
    with pytest.raises(PluginDefect, match="consistency"):
        _ = handle.consistency
    with pytest.raises(PluginDefect, match="in shortfall: KeyError"):
        _ = handle.shortfall
    with pytest.raises(PluginDefect, match="in thaw: OSError"):
        handle.thaw()


def test_a_hypervisor_without_a_channel_to_guest_agents_says_so() -> None:
    class Driver:
        def list_vms(self) -> list[VmRef]:
            return []

    with pytest.raises(GuestAgentSilent, match="the hypervisor plugin plain has no channel to it"):
        GuardedDriver("plain", Driver()).guest_agent(VM)
    with pytest.raises(GuestProcessingFailed, match="the hypervisor plugin plain runs no programs in guests"):
        GuardedDriver("plain", Driver()).programs(VM)


def test_what_a_channel_raises_is_a_defect_of_the_hypervisor_plugin() -> None:
    channel = GuardedDriver("odd", Odd(guest_agent=Odd(exchange=OSError("gone")))).guest_agent(VM)
    with pytest.raises(PluginDefect, match="'odd' broke its contract in exchange: OSError"):
        channel.exchange(b"{}", 1)


def test_a_driver_with_one_way_for_all_gives_the_disk_as_it_is() -> None:
    class Driver:
        def list_vms(self) -> list[VmRef]:
            return []

    driver, disk = GuardedDriver("plain", Driver()), SnapshotDisk("a", "a", 512, ("https://esx/folder/a",))
    assert driver.near_proxies(VmInfo(VM, ()), "a") == ()
    assert driver.disk_for(Snapshot("s", VM, (disk,)), disk, "proxy", MemoryJournal()) is disk


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"disk_id": "b"}, "gave another"),
        ({"size_bytes": 1024}, "gave another"),
        ({"change_id": "2"}, "gave another"),
        ({"urls": ()}, "no URL"),
        ({"access": (DiskAccess(origin="https://elsewhere"),)}, "https://elsewhere"),
    ],
)
def test_a_way_to_another_disk_is_a_defect(changed: dict[str, Any], reason: str) -> None:
    disk = SnapshotDisk("a", "a", 512, ("https://esx/folder/a",), change_id="1")
    driver = GuardedDriver("odd", Odd(disk_for=msgspec.structs.replace(disk, **changed), near_proxies=[{"b", "a"}]))
    assert driver.near_proxies(VmInfo(VM, ()), "a")
    with pytest.raises(PluginDefect, match=reason):
        driver.disk_for(Snapshot("s", VM, (disk,)), disk, "proxy", MemoryJournal())


def test_secrets_are_for_servers_of_the_disk_only() -> None:
    own = DiskAccess(origin="https://esx", cookie="a=b")
    strange = DiskAccess(origin="https://elsewhere", cookie="a=b")
    request = SnapshotRequest(VM, "tag", ("a",))
    for access in ((own,), (own, strange)):
        taken = Snapshot("s", VM, (SnapshotDisk("a", "a", 512, ("https://esx/folder/a",), access=access),))
        target = RestoreTarget("t", VM, (RestoreDisk("a", "a", 512, "https://esx/folder/a", access=access),))
        driver = GuardedDriver("odd", Odd(create_snapshot=taken, prepare_restore=target))
        if strange not in access:
            assert driver.create_snapshot(request, MemoryJournal()) is taken
            assert driver.prepare_restore("web", VmInfo(VM, ()), False, MemoryJournal()) is target
            continue
        with pytest.raises(PluginDefect, match="secrets for https://elsewhere"):
            driver.create_snapshot(request, MemoryJournal())
        with pytest.raises(PluginDefect, match="secrets for https://elsewhere"):
            driver.prepare_restore("web", VmInfo(VM, ()), False, MemoryJournal())


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A call that comes back only when the test is over; limits are short meanwhile."""
    over = threading.Event()
    monkeypatch.setattr(boundary, "LIMITS_S", dict.fromkeys(boundary.LIMITS_S, 0.05))
    monkeypatch.setattr(boundary, "LONGEST_S", 0.05)
    yield over.wait
    over.set()


def test_a_call_that_hangs_is_given_up_and_its_vm_left_alone(hanging: Callable[[], None]) -> None:
    class Hangs(Odd):
        def create_snapshot(self, request: SnapshotRequest, _: object) -> Snapshot:
            if request.vm == VM:
                hanging()
            return Snapshot("s", request.vm, ())

    plugin = Hangs()
    driver = GuardedDriver("slow", plugin)
    with pytest.raises(PluginHung, match="'slow' has not come back from create_snapshot") as caught:
        driver.create_snapshot(REQUEST, MemoryJournal())
    assert not caught.value.retryable
    with pytest.raises(PluginHung, match="create_snapshot"):
        driver.vm_info(VM)
    assert plugin.calls == [], "nothing is asked of it about that VM any more"
    other = VmRef("2", "db")
    assert driver.create_snapshot(SnapshotRequest(other, "tag", ()), MemoryJournal()).vm == other
    driver.close()


def test_every_call_of_a_plugin_has_a_limit(hanging: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method of each guard in turn, with a plugin all of whose methods hang."""
    monkeypatch.setattr(guest_guard, "SLACK_S", 0.05)

    processors = (GuardedGuestProcessor, GuardedAgentChannel, GuardedInGuest)
    guards = (GuardedDriver, *processors, GuardedTracker, GuardedNotifier)
    names = {name for guarded in guards for name in vars(guarded) if not name.startswith("_")}
    plugin = type("Hangs", (), dict.fromkeys(names, lambda *_, **__: hanging()))
    taken, target, facts = snapshot(), RestoreTarget("t", VM, ()), VmInfo(VM, ())
    arguments: dict[str, tuple[Any, ...]] = {
        "vm_info": (VM,), "create_snapshot": (REQUEST, None), "check_snapshot": (taken,),
        "remove_snapshot": (taken, True, None), "fulfil": ("kind", {}), "prepare_restore": ("web", facts, False, None),
        "finish_restore": (target, facts, None), "abandon_restore": (target, None), "guest_agent": (VM,),
        "freeze": (facts, NoAccess(), 60), "changed": (taken, "a", "1"), "allocated": (taken, "a"),
        "exchange": (b"{}", 0.01), "prepare_rollback": ("web", facts, {}, None), "near_proxies": (facts, "a"),
        "disk_for": (taken, None, "proxy", None), "place_for": (target, None, "proxy", None), "places": (None,),
        "latencies_ms": ((),), "programs": (VM,),
        "run": (("true",), 0.01), "put": ("/file", b""), "send": (None, 0.01),
        "start_instant": ("web", facts, (), None), "resume_instant": (VM,), "migrate_instant": (VM, None, None),
        "stop_instant": (VM, None), "instant_clients": ("web", facts),
    }  # fmt: skip
    for guarded in guards:
        for name in (name for name in vars(guarded) if not name.startswith("_") and name != "close"):
            with pytest.raises((PluginHung, ChangeTrackingLost), match=f"has not come back from {name}"):
                getattr(guarded("slow", plugin()), name)(*arguments.get(name, ()))
    for guarded in (GuardedDriver, GuardedGuestProcessor):
        guarded("slow", plugin()).close()


def test_the_thread_of_a_call_outlives_it() -> None:
    """What a plugin starts to end with its thread (PR_SET_PDEATHSIG) lives on when the call is over."""
    threads: list[threading.Thread] = []
    driver = GuardedDriver("odd", Odd())
    driver.unguarded.connect = lambda: threads.append(threading.current_thread())  # type: ignore[method-assign] # a spy
    driver.connect()
    driver.connect()
    assert threads[0] is threads[1] is not threading.current_thread()
    assert threads[0].is_alive()
