"""What a plugin says of its driver at load is what the driver does."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import GuestAgentSilent, PlatformError, UsageError
from holdfast_plugins.api import (
    API_VERSION,
    Family,
    HypervisorDriver,
    OffersGuestAgent,
    Registration,
    Registry,
)

from ..journal import MemoryJournal
from ..lab import HypervisorLab
from .acts import NOBODY, RESTORED, Suite


class RegistrationSuite(Suite):
    """Registration, capabilities, and coming and going."""

    @pytest.fixture
    def registration(self, lab: HypervisorLab) -> Registration:
        if lab.plugin is None:
            pytest.skip("the lab does not name the module that registers the driver")
        registry = Registry()
        lab.plugin.holdfast_register_hypervisors(registry)
        kind = type(lab.driver())
        found = [each for each in registry.registrations if each.factory is kind] or registry.registrations
        assert found, "the module registers no hypervisor"
        return found[0]

    def test_it_is_registered_as_what_it_is(self, registration: Registration) -> None:
        assert registration.family is Family.HYPERVISOR
        assert registration.summary.strip() == registration.summary != ""
        assert len(registration.summary) <= 120, "the summary is one line of a table"
        assert registration.api_version <= API_VERSION

    def test_unknown_options_are_refused(self, registration: Registration) -> None:
        """``Registration.options_type`` is strict already; a field that takes anything would make it lax again."""
        for options in (registration.options_type, registration.snapshot_options_type):
            assert options.__struct_config__.frozen
            assert "holdfast_no_such_option" not in {field.name for field in msgspec.structs.fields(options)}

    def test_the_capability_to_restore_is_the_truth(
        self, lab: HypervisorLab, driver: HypervisorDriver, registration: Registration
    ) -> None:
        if lab.restores:
            assert registration.capabilities.restore, "it restores, and says that it cannot"
        if registration.capabilities.restore:
            return
        before, journal = lab.traces(), MemoryJournal()
        with pytest.raises(UsageError):
            driver.prepare_restore(RESTORED, driver.vm_info(lab.vm), overwrite=False, journal=journal)
        assert lab.traces() == before
        assert not journal.kept

    def test_a_channel_to_guest_agents_is_not_made_up(self, driver: HypervisorDriver) -> None:
        if not isinstance(driver, OffersGuestAgent):
            pytest.skip("it offers no guest agent")
        with pytest.raises(PlatformError):
            driver.guest_agent(NOBODY).exchange(b'{"execute": "guest-ping"}', 5)

    def test_a_silent_agent_is_told_as_silent(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        """The lab's VM has no agent that runs."""
        if not isinstance(driver, OffersGuestAgent):
            pytest.skip("it offers no guest agent")
        with pytest.raises(GuestAgentSilent):
            driver.guest_agent(lab.vm).exchange(b'{"execute": "guest-ping"}', 1)

    def test_it_can_be_closed_at_any_time(self, lab: HypervisorLab) -> None:
        never_connected = lab.driver()
        never_connected.close()
        connected = lab.driver()
        connected.connect()
        connected.close()
        connected.close()

    def test_connecting_leaves_no_trace(self, lab: HypervisorLab) -> None:
        before = lab.traces()
        for _ in range(2):
            driver = lab.driver()
            driver.connect()
            driver.close()
        assert lab.traces() == before

    def test_one_driver_s_end_is_not_another_s(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        other = lab.driver()
        other.connect()
        assert list(other.list_vms()).count(lab.vm) == 1
        other.close()
        assert list(driver.list_vms()).count(lab.vm) == 1

    def test_a_server_that_is_not_there_is_told(self, lab: HypervisorLab) -> None:
        driver = lab.unreachable()
        if driver is None:
            pytest.skip("the lab has no server that is not there")
        with pytest.raises(PlatformError) as caught:
            driver.connect()
        assert caught.value.retryable, "it may be there again later"
        for secret in lab.secrets:
            assert secret not in str(caught.value)
        driver.close()
