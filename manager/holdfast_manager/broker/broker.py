"""The inventory of one server, asked for once and then answered from memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from holdfast_agent.errors import NoVmChosen, VmNotFound
from holdfast_plugins.api import HypervisorDriver, OffersPlaces, PlaceKind, VmInfo, VmRef

from .patterns import match, match_places

MAX_AGE_S = 60.0
"""A job's VMs are resolved and described within seconds; what is older than a minute may well have changed."""


class Broker:
    """A cache before the connected ``driver`` of the server called ``server``. Thread-safe.

    ``clock`` gives seconds that never go back. The driver is asked by one thread at a time for each answer; a second
    thread that wants the same waits for it.
    """

    def __init__(
        self,
        driver: HypervisorDriver,
        server: str,
        max_age_s: float = MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._server = server
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._vms: tuple[float, tuple[VmRef, ...]] | None = None
        self._infos: dict[str, tuple[float, VmInfo]] = {}

    def vms(self) -> tuple[VmRef, ...]:
        """All VMs, by name and id; at most ``max_age_s`` old. Raises what the driver raises."""
        with self._lock:
            if self._vms is None or self._expired(self._vms[0]):
                asked = self._clock()
                found = sorted(self._driver.list_vms(), key=lambda vm: (vm.name, vm.vm_id))
                self._vms = (asked, tuple(found))
            return self._vms[1]

    def info(self, vm: VmRef) -> VmInfo:
        """The facts of ``vm``; at most ``max_age_s`` old. Raises ``VmNotFound``, or what the driver raises."""
        with self._lock:
            known = self._infos.get(vm.vm_id)
            if known is None or self._expired(known[0]):
                asked = self._clock()
                known = self._infos[vm.vm_id] = (asked, self._driver.vm_info(vm))
            return known[1]

    def forget(self) -> None:
        """The next answers come from the hypervisor; called after something was changed there."""
        with self._lock:
            self._vms = None
            self._infos.clear()

    def resolve(
        self, include: Sequence[str], exclude: Sequence[str] = (), missing: Callable[[VmNotFound], None] | None = None
    ) -> list[VmRef]:
        """The VMs that a job means: those that match ``include`` and not ``exclude``; by name, each once.

        An entry is a name, an id, or a pattern with ``*``, ``?`` or ``[…]``, in which case matters; or such a name of a
        place with its kind in front ("folder:/dc/vm/web", "tag:backup/*"), for all VMs there. Called by a job
        session at its start. ``missing`` is told of each name in ``include`` that is not there, with the nearest one:
        a VM that was removed must not keep the others from their backup. Raises the first of these where there is no
        ``missing``, or no other VM; and ``NoVmChosen`` when nothing is left to back up.
        """
        vms = self.vms()
        included, lost = set[str](), list[VmNotFound]()
        for entry in include:
            try:
                included |= {vm.vm_id for vm in self._meant(entry, vms, self._server)}
            except VmNotFound as error:
                lost.append(error)
        excluded = {vm.vm_id for entry in exclude for vm in self._meant(entry, vms)}
        if lost and (missing is None or not included - excluded):
            raise lost[0]
        if not included - excluded:
            raise self._nothing_chosen(include, len(vms), len(included))
        if missing is not None:
            for each in lost:
                missing(each)
        return [vm for vm in vms if vm.vm_id in included - excluded]

    def _nothing_chosen(self, include: Sequence[str], there: int, included: int) -> NoVmChosen:
        if not there:
            reason = "it has none, or none that its account may see"
            advice = "Check the server's options and the rights of its account"
        elif not included:
            reason, advice = (
                f"none of its {there} is called so or lies there",
                "Check the job's --include; case matters",
            )
        else:
            reason, advice = f"all {included} are excluded", "Check the job's --exclude"
        entries = " and ".join(map(repr, include)) or "an empty list"
        return NoVmChosen(entries=entries, server=self._server, reason=reason, advice=advice)

    def _meant(self, entry: str, vms: Sequence[VmRef], required_on: str = "") -> list[VmRef]:
        kind = entry.partition(":")[0]
        named = any(entry in (vm.name, vm.vm_id) for vm in vms)
        if named or ":" not in entry or kind not in list(PlaceKind):
            return match(entry, vms, required_on)
        places = self._driver.places(PlaceKind(kind)) if isinstance(self._driver, OffersPlaces) else {}
        return match_places(entry, places, vms, required_on)

    def _expired(self, asked: float) -> bool:
        return self._clock() - asked > self._max_age_s
