"""What a session is put together from: its connections, leases and slots, and the loop that drives it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.wire.messages import Push
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.journal import CatalogJournal, fulfil_open
from holdfast_manager.catalog.values import SessionEntry
from holdfast_manager.host.host import PluginHost
from holdfast_manager.reports.sentences import counted
from holdfast_manager.scheduler.slots import SlotLedger
from holdfast_manager.settings import ManagerSettings
from holdfast_manager.traffic.ledger import TrafficLedger
from holdfast_plugins.api import HypervisorDriver

from .agents import AgentPool, LeaseKeeper
from .driver import Actions, Driver, Machine
from .hypervisor_side import Destination
from .movers import MoverDesk
from .recorder import Recorder
from .routing import Routing
from .tasks import Context
from .traffic import SessionTraffic

Listener = Callable[[str, Push | AgentLost], None]
"""Hears, in the driver's thread, what an agent (named first) says by itself."""


class Workshop:
    """The parts of one session, for whichever kind it is (:mod:`kinds`). ``cleanup`` gives back all that they hold."""

    def __init__(
        self,
        settings: ManagerSettings,
        catalog: Catalog,
        entry: SessionEntry,
        recorder: Recorder,
        stop_reason: Callable[[], str],
        cleanup: ExitStack,
    ) -> None:
        """``stop_reason``: why the session is to end now; empty: it goes on."""
        self.settings = settings
        self.catalog = catalog
        self.entry = entry
        self.recorder = recorder
        self.cleanup = cleanup
        self._stop_reason = stop_reason
        self._listeners: tuple[Listener, ...] = ()

    def stopped(self) -> bool:
        return bool(self._stop_reason())

    def identity(self) -> KeyPair:
        """By which agents know this manager."""
        return KeyPair.load(self.settings.identity_file)

    def context(self, repository: str, job: str = "", pause_s: float = 0.0) -> Context:
        """What the actions of the session share. ``repository``: or a group; ``job``: whose share of lines it takes.

        ``pause_s``: before what failed is tried again.
        """
        timing = self.settings.timing
        driver = Driver(self.recorder, self._stop_reason, timing.poll)
        pool = AgentPool(
            self.catalog,
            self.identity(),
            lease=f"session-{self.entry.id}",
            ttl_s=timing.lease_ttl,
            on_push=lambda agent, push: driver.call_soon(lambda: self._dispatch(agent, push)),
            believe_s=pause_s / 2,
        )
        self.cleanup.callback(pool.close)
        ledger = SlotLedger(self.catalog, ttl_s=timing.lease_ttl)
        self.cleanup.callback(ledger.release_all, self.entry.id)
        desk = MoverDesk(pool, Routing(self.catalog, pool), driver.post, self.recorder.progress)
        traffic = SessionTraffic(TrafficLedger(self.catalog, ttl_s=timing.lease_ttl), self.entry.id, desk, job)
        return Context(
            catalog=self.catalog,
            session=self.entry.id,
            driver=driver,
            recorder=self.recorder,
            pool=pool,
            desk=desk,
            ledger=ledger,
            traffic=traffic,
            repository=self.catalog.groups.behind(repository)[0],  # of a group any: points have homes of their own
        )

    def drive(self, context: Context, machine: Machine, actions: Actions, *listeners: Listener) -> str:
        """Run ``machine`` to its end; its result. Meanwhile leases, slots and shares are renewed."""
        self._listeners = listeners

        def renew_slots() -> None:
            context.ledger.renew(self.entry.id)

        timing = self.settings.timing
        with (
            LeaseKeeper(timing.heartbeat, (context.pool.renew,)),  # not behind a catalogue that is away
            LeaseKeeper(timing.heartbeat, (renew_slots, context.traffic.renew)),
            LeaseKeeper(timing.poll, (context.traffic.look,)),
        ):
            return context.driver.run(machine, actions)

    def plugins(self, hypervisor: str) -> PluginHost:
        """All plugins but the other hypervisors', which the session does not need."""
        return PluginHost.load(self.settings.plugins.disabled, self.settings.plugins.load, {hypervisor})

    def connect(self, host: PluginHost, server: str) -> HypervisorDriver:
        """A connected driver of a server, on which everything that dead sessions left open has been fulfilled."""
        entry = self.catalog.servers.get(server)
        secret = self.catalog.servers.secret(server) if entry.has_secret else {}
        driver = host.hypervisor(entry.plugin, entry.options, secret, f"options of server {server}")
        self.cleanup.callback(driver.close)
        driver.connect()
        fulfilled, complaints = fulfil_open(self.catalog, driver, server)
        if fulfilled:
            self.recorder.note(
                f"removed {counted(fulfilled, 'thing')} on {server} that earlier sessions had left behind"
            )
        for complaint in complaints:
            self.recorder.note(complaint, "warning")
        return driver

    def journal(self, server: str, plugin: str) -> CatalogJournal:
        """Where promises about the server ``server`` are kept."""
        return CatalogJournal(self.catalog, self.entry.id, server, plugin)

    def destination(self, name: str) -> Destination:
        """The server that a VM is restored to, connected."""
        server = self.catalog.servers.get(name)
        hypervisor = self.connect(self.plugins(server.plugin), name)
        return Destination(hypervisor, self.journal(name, server.plugin))

    def _dispatch(self, agent: str, push: Push | AgentLost) -> None:
        for listener in self._listeners:
            listener(agent, push)
