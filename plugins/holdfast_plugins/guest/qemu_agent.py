"""The guest processor `qemu-ga`: freezes guests through QEMU's guest agent, over the channel that the hypervisor has.

In Linux guests a guard is put beside the agent, which has no time limit of its own, before anything is frozen. Windows
guests are frozen by VSS, which makes applications rest through their writers and ends a freeze by itself; that path is
written from the agent's documentation.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping

from holdfast_agent.errors import GuestAgentRefused, GuestAgentSilent, GuestProcessingFailed, PlatformError
from holdfast_plugins.api import ConsistencyLevel, FreezeHandle, GuestAccess, Registry, VmInfo

from .agent_client import AgentClient
from .deployment import TOO_EARLY, Deployment, Held, after_thaw
from .frozen import FrozenGuests
from .options import GuestOptions

log = logging.getLogger(__name__)
FREEZE_TIMEOUT_S = 30.0
"""For the agent to write everything out and freeze; what takes longer than the guest may be held is given up."""
THAW_PATIENCE_S = 120.0
"""How long is tried to thaw. A guest that hangs for longer has its guard, which waits for it as long."""
_RETRY_S = 0.5
_NEEDED = frozenset({"guest-exec", "guest-exec-status", "guest-file-open", "guest-file-write", "guest-file-close"})


class QemuAgentProcessor:
    """A ``GuestProcessor``. Thread-safe: freezes have nothing in common."""

    def __init__(self, options: GuestOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._frozen = FrozenGuests()

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        name = vm.ref.name
        try:
            client = AgentClient(access.agent(), name)
            if client.is_frozen():
                log.warning("%s was found frozen, by a session that died or another program, and is thawed", name)
                thaw_for_sure(client, name)
            windows = client.is_windows()
            deployment = None if windows else self._deploy(client, name)
            handle = AgentFreeze(client, name, deployment, self._options, deadline_s)
        except (GuestAgentSilent, GuestAgentRefused) as error:
            raise GuestProcessingFailed(vm=name, phase="freeze", reason=str(error)) from error
        return self._frozen.add(handle)

    def close(self) -> None:
        """Thaw what nobody thawed."""
        self._frozen.thaw_all()

    def _deploy(self, client: AgentClient, vm: str) -> Deployment:
        missing = sorted(_NEEDED - client.enabled_commands())
        if missing:
            reason = (
                f"its agent may not do {', '.join(missing)}, without which nothing would thaw the guest if this "
                "host failed; allow them in the agent's configuration"
            )
            raise GuestProcessingFailed(vm=vm, phase="deploy", reason=reason)
        return Deployment(client, vm, self._options)


class AgentFreeze:
    """A ``FreezeHandle``. Made frozen, or not at all. ``deployment``: None for Windows, which guards itself."""

    def __init__(
        self, client: AgentClient, vm: str, deployment: Deployment | None, options: GuestOptions, deadline_s: float
    ) -> None:
        self._client = client
        self._vm = vm
        self._deployment = deployment
        self._lock = threading.Lock()
        self._thawed = False
        deadline_s = min(deadline_s, options.freeze_limit_s)
        held = Held()
        try:
            if deployment is not None:
                deployment.run_script("pre-freeze")
                held = deployment.hold(deadline_s)
            elif options.pre_freeze or options.post_thaw:
                raise self._failed("deploy", "scripts are run in Linux guests only; VSS writers prepare Windows")
            self._frozen = self._freeze(min(FREEZE_TIMEOUT_S, deadline_s))
        except BaseException as first:
            try:
                self._after_thaw()
            except PlatformError as error:
                first.add_note(f"and afterwards: {error}")
            raise
        self.consistency = held.consistency(options) if deployment is not None else ConsistencyLevel.APPLICATION
        self.shortfall = held.shortfall
        self.note = held.note(self._frozen)

    def thaw(self) -> None:
        with self._lock:
            if self._thawed:
                return
            self._thawed = True
            count = thaw_for_sure(self._client, self._vm)
            early = self._after_thaw()
        if early or count < self._frozen:
            raise self._failed("freeze", early or TOO_EARLY)

    def _freeze(self, timeout_s: float) -> int:
        """Returns how many file systems are frozen. After an error none is, nor will be."""
        try:
            frozen = self._client.freeze(timeout_s)
            if frozen < 1:
                raise self._failed("freeze", "the guest has no file system that can be frozen")
        except BaseException as first:
            try:
                thaw_for_sure(self._client, self._vm)
            except PlatformError as error:
                first.add_note(f"and the guest could not be thawed: {error}")
            raise
        return frozen

    def _after_thaw(self) -> str:
        """Let databases go, run the owner's script, take away what was deployed. Returns what ended too early."""
        return "" if self._deployment is None else after_thaw(self._deployment)

    def _failed(self, phase: str, reason: str) -> GuestProcessingFailed:
        return GuestProcessingFailed(vm=self._vm, phase=phase, reason=reason)


def thaw_for_sure(client: AgentClient, vm: str) -> int:
    """Thaw until the agent says that the guest is thawed; returns how many file systems still were frozen.

    A freeze that was not answered in time is carried out when the agent gets to it, so one thaw is not enough. Raises
    ``GuestProcessingFailed`` when the agent hangs for longer.
    """
    end, count = time.monotonic() + THAW_PATIENCE_S, 0
    while True:
        try:
            count += client.thaw(FREEZE_TIMEOUT_S)
        except GuestAgentRefused as error:
            log.warning("%s", error)  # VSS complains when it has ended the freeze by itself; what counts is the state
        except GuestAgentSilent as error:
            if time.monotonic() >= end:
                reason = f"{error}; the guard in the guest thaws it when the time is over"
                raise GuestProcessingFailed(vm=vm, phase="thaw", reason=reason) from error
        with contextlib.suppress(GuestAgentSilent):
            if not client.is_frozen():
                return count
        if time.monotonic() >= end:
            raise GuestProcessingFailed(vm=vm, phase="thaw", reason="its agent does not thaw it")
        time.sleep(_RETRY_S)


def holdfast_register_guest_processors(registry: Registry) -> None:
    registry.guest_processor(
        "qemu-ga",
        QemuAgentProcessor,
        summary="freezes guests and holds their databases through QEMU's guest agent",
        options_type=GuestOptions,
    )
