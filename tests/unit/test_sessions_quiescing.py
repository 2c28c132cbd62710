"""Whatever goes wrong around a snapshot, the guest is thawed, and the point never claims more than was achieved."""

from __future__ import annotations

import pytest

from holdfast_agent.errors import GuestProcessingFailed, SnapshotFailed
from holdfast_manager.catalog.values import GuestPolicy
from holdfast_manager.sessions.quiescing import Guest, Quiesced, snapshot_quiesced
from holdfast_plugins.api import ConsistencyLevel, GuestAccess, Snapshot, VmInfo, VmRef
from lab.guest_access import NoAccess

VM = VmInfo(VmRef("vm", "vm"), ())
FAILED = GuestProcessingFailed(vm="vm", phase="freeze", reason="test")


class Story:
    """A guest and a hypervisor that write down what is done to them, and fail where told."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.said: list[str] = []

    consistency = ConsistencyLevel.APPLICATION
    note = "held"

    @property
    def shortfall(self) -> str:
        return "the ledger is not held" if "part" in self.failing else ""

    def _do(self, what: str, error: Exception) -> None:
        self.said.append(what)
        if what in self.failing:
            raise error

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> Story:
        self._do("freeze", FAILED)
        return self

    def thaw(self) -> None:
        self._do("thaw", FAILED)

    def take(self) -> Snapshot:
        self._do("take", SnapshotFailed(vm="vm", reason="test"))
        return Snapshot("1", VM.ref, (), warning="two instants" if "instant" in self.failing else "")

    def discard(self, snapshot: Snapshot) -> None:
        self.said.append("discard")

    def close(self) -> None:
        pass

    def run(self, policy: GuestPolicy | None) -> tuple[ConsistencyLevel, str]:
        guest = None if policy is None else Guest(self, policy)
        announced: list[Quiesced] = []
        taken = snapshot_quiesced(guest, VM, NoAccess(), self.take, self.discard, announced.append)
        return taken.consistency, announced[0].warning or taken.warning


@pytest.mark.parametrize(
    ("failing", "policy", "said", "outcome"),
    [
        ((), None, "take", ConsistencyLevel.CRASH),
        ((), GuestPolicy.SKIP, "take", ConsistencyLevel.CRASH),
        ((), GuestPolicy.REQUIRE, "freeze take thaw", ConsistencyLevel.APPLICATION),
        (("part",), GuestPolicy.TRY, "freeze take thaw", ConsistencyLevel.APPLICATION),
        (("part",), GuestPolicy.REQUIRE, "freeze thaw", GuestProcessingFailed),
        (("part", "thaw"), GuestPolicy.REQUIRE, "freeze thaw", GuestProcessingFailed),
        (("freeze",), GuestPolicy.TRY, "freeze take", ConsistencyLevel.CRASH),
        (("freeze",), GuestPolicy.REQUIRE, "freeze", GuestProcessingFailed),
        (("take",), GuestPolicy.REQUIRE, "freeze take thaw", SnapshotFailed),
        (("take", "thaw"), GuestPolicy.REQUIRE, "freeze take thaw", SnapshotFailed),
        (("thaw",), GuestPolicy.TRY, "freeze take thaw", ConsistencyLevel.CRASH),
        (("thaw",), GuestPolicy.REQUIRE, "freeze take thaw discard", GuestProcessingFailed),
    ],
)
def test_freeze_snapshot_thaw(
    failing: tuple[str, ...], policy: GuestPolicy | None, said: str, outcome: ConsistencyLevel | type[Exception]
) -> None:
    story = Story(*failing)
    if isinstance(outcome, ConsistencyLevel):
        consistency, warning = story.run(policy)
        assert consistency is outcome
        assert bool(warning) == bool(failing), "what was asked for and not achieved is told"
    else:
        with pytest.raises(outcome):
            story.run(policy)
    assert " ".join(story.said) == said


def test_disks_of_several_instants_hold_no_freeze() -> None:
    """Whoever wrote meanwhile did not know of it: the point claims nothing, and is none where more is required."""
    assert Story("instant").run(GuestPolicy.TRY) == (ConsistencyLevel.CRASH, "two instants")
    assert Story("instant").run(None) == (ConsistencyLevel.CRASH, "two instants")
    story = Story("instant")
    with pytest.raises(GuestProcessingFailed, match="two instants"):
        story.run(GuestPolicy.REQUIRE)
    assert story.said == ["freeze", "take", "thaw", "discard"]
