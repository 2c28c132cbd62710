"""Whatever a crash leaves is found and removed, and nothing else is."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import suppress

import pytest

from holdfast_agent.errors import PlatformError
from holdfast_plugins.api import HypervisorDriver

from ..journal import MemoryJournal, MortalJournal, Obligation, SuddenDeath
from ..lab import HypervisorLab
from .acts import Suite, connected, content_of, fulfil_twice, only_typed_errors, take

_ODD = ("", "..", "../../etc", "/", "/etc/passwd", "holdfast", "\0", "x" * 5000)


class ObligationSuite(Suite):
    """First the promise, then the act; and ``fulfil`` after a crash at any moment."""

    def test_nothing_is_made_before_it_is_promised(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        before = lab.traces()
        seen: list[Hashable] = []

        def die(_: Obligation) -> None:
            seen.append(lab.traces())
            raise SuddenDeath

        try:
            snapshot = take(lab, driver, MemoryJournal(on_promise=die))
        except SuddenDeath:
            assert seen == [before]
        else:
            driver.remove_snapshot(snapshot, committed=False, journal=MemoryJournal())
        assert lab.traces() == before

    @pytest.mark.parametrize("committed", [True, False])
    def test_a_session_may_die_at_any_moment_of_a_snapshot(self, lab: HypervisorLab, committed: bool) -> None:
        """Before and after each word to the journal, from the snapshot's beginning to its end."""
        before = lab.traces()
        for moment in range(100):
            journal = MortalJournal(moment)
            with connected(lab) as mortal, suppress(SuddenDeath):
                mortal.remove_snapshot(take(lab, mortal, journal), committed, journal)
            fulfil_twice(lab, list(journal.open.values()))
            assert lab.traces() == before, f"what was left after moment {moment} was not removed"
            if not journal.died:
                return
        raise AssertionError("it promises without end")

    def test_another_process_fulfils_what_a_crash_left(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        before = lab.traces()
        take(lab, driver, journal)
        fulfil_twice(lab, list(journal.open.values()))
        assert lab.traces() == before

    def test_a_promise_without_its_act_is_fulfilled_too(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        snapshot = take(lab, driver, journal)
        kept = list(journal.open.values())
        driver.remove_snapshot(snapshot, committed=False, journal=journal)
        before = lab.traces()
        fulfil_twice(lab, kept)
        assert lab.traces() == before

    def test_after_a_crash_all_goes_on(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        take(lab, driver, journal)
        fulfil_twice(lab, list(journal.open.values()))
        with connected(lab) as another:
            fresh = MemoryJournal()
            snapshot = take(lab, another, fresh)
            assert content_of(lab, snapshot)
            another.remove_snapshot(snapshot, committed=True, journal=fresh)
        assert not fresh.open

    def test_an_old_promise_harms_no_younger_snapshot(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """The act of an obligation may have been done long ago; another session works on the VM now."""
        if not lab.takes_several_snapshots:
            pytest.skip("this hypervisor takes one snapshot of a VM at a time")
        driver.remove_snapshot(take(lab, driver, journal), committed=True, journal=journal)
        old = list(journal.kept)
        younger = take(lab, driver, journal)
        content = content_of(lab, younger)
        fulfil_twice(lab, old)
        assert content_of(lab, younger) == content
        driver.remove_snapshot(younger, committed=True, journal=journal)

    def test_an_obligation_of_another_kind_is_refused(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        before = lab.traces()
        with pytest.raises(PlatformError):
            driver.fulfil("holdfast-no-such-kind", {"root": "/", "name": "etc", "path": "/etc"})
        assert lab.traces() == before

    def test_a_damaged_obligation_deletes_nothing(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """What comes back from the journal may be of another version, or of another making."""
        driver.remove_snapshot(take(lab, driver, journal), committed=True, journal=journal)
        before = lab.traces()
        for obligation in journal.kept:
            for damaged in _damaged(obligation.data):
                with only_typed_errors(f"fulfil of {obligation.kind} with {damaged}"):
                    driver.fulfil(obligation.kind, damaged)
                assert lab.traces() == before, f"{damaged} deleted something"

    def test_promises_tell_no_secret(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """They are kept in plain text, and shown; so are inventory, notes and URLs."""
        info = driver.vm_info(lab.vm)
        snapshot = take(lab, driver, journal)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)
        told = [str(journal.kept), str(info), info.config.decode(errors="replace"), snapshot.note, snapshot.snapshot_id]
        told += [f"{disk.urls} {disk.change_id}" for disk in snapshot.disks]
        for secret in lab.secrets:
            assert not any(secret in text for text in told)


def _damaged(data: dict[str, str]) -> Iterator[dict[str, str]]:
    yield {}
    for key in data:
        yield {name: value for name, value in data.items() if name != key}
        for odd in _ODD:
            yield data | {key: odd}
    yield data | {"holdfast-no-such-key": "x"}
