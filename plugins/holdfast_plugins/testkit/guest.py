"""The conformance suite of guest processors: a guest that was frozen goes on, whatever happens."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator

import pytest

from holdfast_agent.errors import GuestAgentSilent, GuestProcessingFailed, PlatformError
from holdfast_plugins.api import AgentChannel, ConsistencyLevel, GuestAccess, GuestProcessor, InGuest, VmInfo

_LONG_S = 300.0
_PATIENCE_S = 60.0


class NoAccess:
    """The ``GuestAccess`` of a hypervisor that offers nothing."""

    def agent(self) -> AgentChannel:
        raise GuestAgentSilent(vm="the VM", reason="its hypervisor has no channel to it")

    def programs(self) -> InGuest:
        raise GuestProcessingFailed(vm="the VM", phase="programs", reason="its hypervisor runs none in guests")


class GuestLab(ABC):
    """One real guest, made anew or found at rest for each test. Nothing here may use the processor under test."""

    needs_agent = False
    """The processor works through the hypervisor's channel to the guest's agent, and without one not at all."""
    kills_sessions = False
    """The lab can freeze from another process and kill it (:meth:`freeze_and_die`)."""

    @property
    @abstractmethod
    def vm(self) -> VmInfo:
        """The guest's VM."""

    @abstractmethod
    def processor(self) -> GuestProcessor:
        """A new processor, with options that freeze this guest. The suite closes it."""

    def broken_processor(self) -> GuestProcessor | None:
        """A new processor whose freeze of this guest fails half-way; None if the lab has no such thing."""
        return None

    def access(self) -> GuestAccess:
        """What the guest's hypervisor offers."""
        return NoAccess()

    @abstractmethod
    def frozen(self) -> bool:
        """Whether the guest is held now, as seen in the guest."""

    def freeze_and_die(self) -> None:
        """Freeze the guest in another process as the processor does it, and kill that process with SIGKILL."""
        raise NotImplementedError("a lab that kills sessions says how")

    @abstractmethod
    def traces(self) -> Hashable:
        """Whatever a processor may put into the guest or start beside it, in a form that compares equal."""


class GuestProcessorConformance:
    """Subclass it in a test file and give a fixture ``lab`` that makes a :class:`GuestLab`."""

    @pytest.fixture
    def processor(self, lab: GuestLab) -> Iterator[GuestProcessor]:
        processor = lab.processor()
        yield processor
        processor.close()
        wait_until(lambda: not lab.frozen(), "the guest is frozen after close")

    def test_a_freeze_holds_and_a_thaw_lets_go(self, lab: GuestLab, processor: GuestProcessor) -> None:
        assert not lab.frozen()
        handle = processor.freeze(lab.vm, lab.access(), _LONG_S)
        assert lab.frozen()
        handle.thaw()
        assert not lab.frozen()

    def test_a_thaw_may_come_twice(self, lab: GuestLab, processor: GuestProcessor) -> None:
        handle = processor.freeze(lab.vm, lab.access(), _LONG_S)
        handle.thaw()
        handle.thaw()
        assert not lab.frozen()

    def test_a_handle_tells_what_was_achieved(self, lab: GuestLab, processor: GuestProcessor) -> None:
        handle = processor.freeze(lab.vm, lab.access(), _LONG_S)
        told = handle.consistency, handle.note, handle.shortfall
        assert told[0] in (ConsistencyLevel.FILE_SYSTEM, ConsistencyLevel.APPLICATION), "a freeze is more than nothing"
        assert told[1].isprintable()
        assert told[1].strip()
        assert told[2].isprintable()
        handle.thaw()
        assert (handle.consistency, handle.note, handle.shortfall) == told

    def test_a_guest_can_be_frozen_again(self, lab: GuestLab, processor: GuestProcessor) -> None:
        for _ in range(2):
            handle = processor.freeze(lab.vm, lab.access(), _LONG_S)
            assert lab.frozen()
            handle.thaw()
            assert not lab.frozen()

    def test_nothing_is_left_in_the_guest(self, lab: GuestLab) -> None:
        before = lab.traces()
        processor = lab.processor()
        processor.freeze(lab.vm, lab.access(), _LONG_S).thaw()
        processor.close()
        wait_until(lambda: lab.traces() == before, "something is left in the guest")

    def test_the_deadline_thaws_without_anybody_asking(self, lab: GuestLab, processor: GuestProcessor) -> None:
        """And the thaw that comes too late says so: the snapshot is not what it was meant to be."""
        handle = processor.freeze(lab.vm, lab.access(), 1.0)
        wait_until(lambda: not lab.frozen(), "the guest is frozen beyond the deadline")
        with pytest.raises(GuestProcessingFailed):
            handle.thaw()
        assert not lab.frozen()
        handle.thaw()

    def test_close_thaws_what_nobody_thawed(self, lab: GuestLab) -> None:
        processor = lab.processor()
        processor.freeze(lab.vm, lab.access(), _LONG_S)
        processor.close()
        wait_until(lambda: not lab.frozen(), "the guest is frozen after close")

    def test_close_may_come_at_any_time(self, lab: GuestLab) -> None:
        lab.processor().close()
        processor = lab.processor()
        processor.freeze(lab.vm, lab.access(), _LONG_S).thaw()
        processor.close()
        processor.close()

    def test_a_freeze_that_fails_leaves_the_guest_running(self, lab: GuestLab) -> None:
        processor = lab.broken_processor()
        if processor is None:
            pytest.skip("the lab has no freeze that fails half-way")
        before = lab.traces()
        with pytest.raises(PlatformError):
            processor.freeze(lab.vm, lab.access(), _LONG_S)
        wait_until(lambda: not lab.frozen(), "the guest is frozen after a freeze that failed")
        processor.close()
        wait_until(lambda: lab.traces() == before, "something is left in the guest")

    def test_a_silent_agent_is_told(self, lab: GuestLab, processor: GuestProcessor) -> None:
        if not lab.needs_agent:
            pytest.skip("it needs no agent")
        with pytest.raises((GuestProcessingFailed, GuestAgentSilent)) as caught:
            processor.freeze(lab.vm, NoAccess(), _LONG_S)
        assert caught.value.retryable, "the agent may be there again later"

    def test_a_killed_session_leaves_no_frozen_guest(self, lab: GuestLab) -> None:
        if not lab.kills_sessions:
            pytest.skip("the lab kills no sessions")
        before = lab.traces()
        lab.freeze_and_die()
        wait_until(lambda: not lab.frozen(), "the guest is frozen after its session was killed")
        processor = lab.processor()  # the next session takes away what the dead one left
        processor.freeze(lab.vm, lab.access(), _LONG_S).thaw()
        processor.close()
        wait_until(lambda: lab.traces() == before, "something is left in the guest")


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Until the world is as it must be; it is looked at again and again for a minute."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
