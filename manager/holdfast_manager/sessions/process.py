"""The process of one session: puts the parts together, runs them to the end, and leaves nothing behind."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import Cancelled, ErrorRecord, HoldfastError
from holdfast_agent.wire.messages import Push
from holdfast_manager.broker.broker import Broker
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.errors import ObligationsOpen
from holdfast_manager.catalog.values import JobSpec, ServerLimits, SessionEntry, SessionKind, SessionResult
from holdfast_manager.host.host import PluginHost
from holdfast_manager.scheduler.slots import SlotLedger
from holdfast_manager.settings import ManagerSettings
from holdfast_manager.traffic.ledger import TrafficLedger
from holdfast_plugins.api import HypervisorDriver

from .agents import AgentPool, LeaseKeeper
from .backup_actions import BackupActions, Platform
from .backup_machine import BackupMachine
from .boot_actions import BootActions
from .copy_actions import CopyActions
from .driver import Actions, Driver, Machine
from .evacuating import Evacuation
from .export_actions import EXPORT_RETRIES, ExportActions
from .files_actions import FilesActions
from .gc_actions import GcActions
from .heal_actions import HealActions
from .homes import Homes
from .instant_actions import InstantActions
from .journal import CatalogJournal, fulfil_open
from .keys import repository_keys, session_keys
from .movers import MoverDesk
from .point_reader import PointReader
from .proving import prove_new_points
from .quiescing import Guest
from .recorder import Recorder
from .requests import (
    BackupRequest,
    BootRequest,
    CleanUpRequest,
    CopyRequest,
    EvacuateRequest,
    ExportRequest,
    FilesRequest,
    GcRequest,
    HealRequest,
    InstantRequest,
    RestoreRequest,
    SettleRequest,
    VerifyRequest,
)
from .restore_actions import Destination, RestoreActions
from .restore_machine import RestoreMachine
from .retaining import apply_retention
from .retrying import vms_without_point
from .routing import Routing
from .settling import Settling
from .steps import Step
from .task_machine import RetryPolicy
from .tasks import Context
from .traffic import SessionTraffic
from .verify_actions import VerifyActions
from .write_sessions import open_repositories

log = logging.getLogger(__name__)
Handler = Callable[[str, Push | AgentLost], None]

_ALIVE_TTLS = 5
"""So many lease times without a sign of life make a session dead for other hosts: its movers have long ended then."""
_TO_TELL_S = 600.0
_TELL_AGAIN_S = 1.0
_MADE_POINTS = (SessionResult.SUCCESS, SessionResult.WARNING, SessionResult.PARTIAL)
"""A VM that failed loses nothing by the others' retention: its points do not grow older without a new one."""


class SessionProcess:
    """One session from its row in the catalogue to its end. Used once, by ``python -m holdfast_manager.sessions``."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, session: int) -> None:
        self._settings = settings
        self._catalog = catalog
        self._session = session
        self._recorder = Recorder(catalog, session)
        self._signal = ""
        self._handlers: list[Handler] = []

    def run(self) -> SessionResult:
        """Adopt the session, run it, record its end. Typed errors end the session, they are not raised."""
        entry = self._catalog.sessions.adopt(self._session)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        began = time.monotonic()
        result, error = SessionResult.FAILED, None
        timing = self._settings.timing

        def stay_alive() -> None:
            self._catalog.sessions.stay_alive(self._session, _ALIVE_TTLS * timing.lease_ttl)

        try:
            with ExitStack() as cleanup, LeaseKeeper(timing.heartbeat, (stay_alive,)):
                result = SessionResult(self._run_kind(entry, cleanup))
            error = self._recorder.first_error if result not in (SessionResult.SUCCESS, SessionResult.WARNING) else None
        except HoldfastError as failure:
            error = failure.to_record()
            self._recorder.note(str(failure), "error")
        finally:
            self._end(result, error, time.monotonic() - began)
        return result

    def _end(self, result: SessionResult, error: ErrorRecord | None, elapsed_s: float) -> None:
        self._recorder.ended(result, elapsed_s)
        _insist(self._recorder.flush)
        _insist(lambda: self._catalog.sessions.end(self._session, result, error))

    def _run_kind(self, entry: SessionEntry, cleanup: ExitStack) -> str:
        match entry.kind:
            case SessionKind.BACKUP:
                again = msgspec.convert(entry.spec, BackupRequest).again
                return self._backup(self._catalog.jobs.get(entry.job), again, cleanup)
            case SessionKind.RESTORE:
                return self._restore(msgspec.convert(entry.spec, RestoreRequest), cleanup)
            case SessionKind.VERIFY:
                return self._verify(msgspec.convert(entry.spec, VerifyRequest), cleanup)
            case SessionKind.GC:
                return self._collect(msgspec.convert(entry.spec, GcRequest), cleanup)
            case SessionKind.COPY:
                return self._copy(msgspec.convert(entry.spec, CopyRequest), cleanup)
            case SessionKind.EXPORT:
                return self._export(msgspec.convert(entry.spec, ExportRequest), cleanup)
            case SessionKind.BOOT:
                return self._prove_boot(msgspec.convert(entry.spec, BootRequest), cleanup)
            case SessionKind.FILES:
                return self._restore_files(msgspec.convert(entry.spec, FilesRequest), cleanup)
            case SessionKind.INSTANT:
                return self._run_instantly(msgspec.convert(entry.spec, InstantRequest), cleanup)
            case SessionKind.SETTLE:
                return self._settle(msgspec.convert(entry.spec, SettleRequest), cleanup)
            case SessionKind.EVACUATE:
                return self._evacuate(msgspec.convert(entry.spec, EvacuateRequest))
            case SessionKind.HEAL:
                return self._heal(msgspec.convert(entry.spec, HealRequest), cleanup)
            case SessionKind.CLEAN_UP:
                return self._clean_up(msgspec.convert(entry.spec, CleanUpRequest), cleanup)

    def _backup(self, job: JobSpec, again: int | None, cleanup: ExitStack) -> str:
        source = f"job {job.name}"
        server = self._catalog.servers.get(job.source)
        if self._catalog.groups.named(job.repository) is None:  # of a group other members may do
            repository_keys(self._catalog, self._catalog.repositories.get(job.repository))
        host = self._plugins(server.plugin)
        options = host.snapshot_options(server.plugin, job.snapshot, f"snapshot options of {source}")
        guest = None
        if job.guest is not None:
            processor = host.guest_processor(job.guest.processor, job.guest.options, f"guest options of {source}")
            cleanup.callback(processor.close)
            guest = Guest(processor, job.guest.policy)
        hypervisor = self._connect(host, server.name, cleanup)
        platform = Platform(
            server=server.name,
            limits=server.limits or ServerLimits(),
            driver=hypervisor,
            broker=Broker(hypervisor, server.name),
            trackers=host.change_trackers(server.plugin, hypervisor),
            journal=CatalogJournal(self._catalog, self._session, server.name, server.plugin),
            guest=guest,
            snapshot_options=options,
        )
        context = self._context(job.repository, cleanup, job.name)
        only = vms_without_point(self._catalog, again) if again is not None else None
        actions = BackupActions(context, job, Homes(context, job.repository), platform, only)
        self._handlers.append(actions.tasks.push)
        result = self._drive(context, BackupMachine(RetryPolicy(job.retries, job.retry_pause_s)), actions)
        return self._after_points(context, job, job.repository, result)

    def _restore(self, request: RestoreRequest, cleanup: ExitStack) -> str:
        destination = None
        if request.server:
            destination = self._destination(request.server, cleanup)
        context = self._context(request.repository, cleanup)
        actions = RestoreActions(context, request, session_keys(context), destination)
        self._handlers.append(actions.tasks.push)
        return self._drive(context, RestoreMachine(RetryPolicy()), actions)

    def _verify(self, request: VerifyRequest, cleanup: ExitStack) -> str:
        context = self._context(request.repository, cleanup)
        actions = VerifyActions(context, request, session_keys(context))
        self._handlers += [actions.tasks.push, actions.push]
        return self._drive(context, RestoreMachine(RetryPolicy(retries=1), keep_going=True), actions)

    def _collect(self, request: GcRequest, cleanup: ExitStack) -> str:
        context = self._context(request.repository, cleanup)
        actions = GcActions(context, request)
        self._handlers.append(actions.push)
        return self._drive(context, RestoreMachine(RetryPolicy()), actions)

    def _copy(self, request: CopyRequest, cleanup: ExitStack) -> str:
        job = self._catalog.jobs.get(request.job) if request.job else None
        copies = job if job is not None and job.copy is not None else None
        context = self._context(request.repository, cleanup, copies.name if copies is not None else "")
        actions = CopyActions(context, request, self._origins(context, request), self._homes(context, request), job)
        self._handlers.append(actions.tasks.push)
        policy = RetryPolicy(copies.retries, copies.retry_pause_s) if copies is not None else RetryPolicy()
        result = self._drive(context, BackupMachine(policy), actions)
        return self._after_points(context, job, request.repository, result) if job is not None else result

    def _after_points(self, context: Context, job: JobSpec, target: str, result: str) -> str:
        """Retention and boot proofs of a session's new points. Its result, with a warning where one does not boot."""
        if SessionResult(result) not in _MADE_POINTS:
            return result
        apply_retention(context, job, target)
        proven = prove_new_points(context, job, self._settings, lambda: bool(self._stop_reason()))
        return SessionResult.WARNING if not proven and result == SessionResult.SUCCESS else result

    def _export(self, request: ExportRequest, cleanup: ExitStack) -> str:
        context = self._context(request.repository, cleanup)
        actions = ExportActions(context, request, session_keys(context))
        self._handlers.append(actions.push)
        result = self._drive(context, RestoreMachine(EXPORT_RETRIES), actions)
        # To be stopped is how an export ends well.
        return SessionResult.SUCCESS.value if result == SessionResult.CANCELLED.value else result

    def _prove_boot(self, request: BootRequest, cleanup: ExitStack) -> str:
        context = self._context(request.repository, cleanup)
        actions = BootActions(context, request, session_keys(context), self._settings.proof_dir)
        self._handlers.append(actions.push)
        return self._drive(context, RestoreMachine(RetryPolicy(retries=1)), actions)

    def _restore_files(self, request: FilesRequest, cleanup: ExitStack) -> str:
        context = self._context(request.repository, cleanup)
        actions = FilesActions(context, request, session_keys(context))
        self._handlers.append(actions.push)
        policy = RetryPolicy(retries=0) if request.mount else RetryPolicy()
        result = self._drive(context, RestoreMachine(policy), actions)
        stopped = request.mount and result == SessionResult.CANCELLED.value  # which is how a mount ends well
        return SessionResult.SUCCESS.value if stopped else result

    def _run_instantly(self, request: InstantRequest, cleanup: ExitStack) -> str:
        destination = self._destination(request.server, cleanup)
        context = self._context(request.repository, cleanup)
        actions = InstantActions(context, request, session_keys(context), destination)
        self._handlers.append(actions.push)
        result = self._drive(context, RestoreMachine(EXPORT_RETRIES), actions)
        return SessionResult.SUCCESS.value if result == SessionResult.CANCELLED.value else result

    def _settle(self, request: SettleRequest, cleanup: ExitStack) -> str:
        wanted = msgspec.convert(self._catalog.sessions.get(request.instant).spec, InstantRequest)
        destination = self._destination(wanted.server, cleanup)
        keys = KeyPair.load(self._settings.identity_file)
        settling = Settling(self._catalog, self._recorder, keys, lambda: bool(self._stop_reason()))
        try:
            settling.run(request, wanted, destination)
        except Cancelled as stopped:
            self._recorder.note(stopped.text)
            return SessionResult.CANCELLED
        return SessionResult.SUCCESS

    def _evacuate(self, request: EvacuateRequest) -> str:
        try:
            evacuation = Evacuation(
                self._settings, self._catalog, self._recorder, request.repository, lambda: bool(self._stop_reason())
            )
            return evacuation.run()
        except Cancelled as stopped:
            self._recorder.note(stopped.text)
            return SessionResult.CANCELLED

    def _destination(self, name: str, cleanup: ExitStack) -> Destination:
        server = self._catalog.servers.get(name)
        hypervisor = self._connect(self._plugins(server.plugin), name, cleanup)
        return Destination(hypervisor, CatalogJournal(self._catalog, self._session, name, server.plugin))

    def _heal(self, request: HealRequest, cleanup: ExitStack) -> str:
        context = self._context(request.repository, cleanup)
        actions = HealActions(context, request, self._origin(context, request.origin), session_keys(context))
        self._handlers += [actions.tasks.push, actions.push]
        return self._drive(context, RestoreMachine(RetryPolicy(), keep_going=True, one_by_one=True), actions)

    def _clean_up(self, request: CleanUpRequest, cleanup: ExitStack) -> str:
        """All of it is done by whoever connects; it fails when anything stays open, so that somebody hears of it."""
        plugin = self._catalog.servers.get(request.server).plugin
        self._connect(self._plugins(plugin), request.server, cleanup)
        living = {session.id for session in self._catalog.sessions.living()}
        owed = [each for each in self._catalog.obligations.open_of(server=request.server) if each.session not in living]
        if owed:
            raise ObligationsOpen(count=len(owed), server=request.server, reason=owed[0].last_error)
        return SessionResult.SUCCESS

    def _homes(self, context: Context, request: CopyRequest) -> Homes:
        """Where copies go: not into the member that they come from, which is evacuated."""
        return Homes(context, request.repository, leave_out=request.origin)

    def _origins(self, context: Context, request: CopyRequest) -> tuple[PointReader, ...]:
        """What a copy reads from: of a group the members that answer, what others have is copied by the next run."""
        entries = self._catalog.groups.behind(request.origin)
        readers = []
        for entry in entries:
            try:
                open_repositories(context, entry)
                readers.append(PointReader(context, entry, session_keys(context, entry)))
            except HoldfastError as error:
                if len(entries) == 1:
                    raise
                self._recorder.note(f"{entry.name} cannot be read now: {error}", "warning", Step.START)
        return tuple(readers)

    def _origin(self, context: Context, repository: str) -> PointReader:
        """The repository that a copy or a heal reads from."""
        entry = self._catalog.repositories.get(repository)
        return PointReader(context, entry, session_keys(context, entry))

    def _drive(self, context: Context, machine: Machine, actions: Actions) -> str:
        def renew_slots() -> None:
            context.ledger.renew(self._session)

        timing = self._settings.timing
        with (
            LeaseKeeper(timing.heartbeat, (context.pool.renew,)),  # not behind a catalogue that is away
            LeaseKeeper(timing.heartbeat, (renew_slots, context.traffic.renew)),
            LeaseKeeper(timing.poll, (context.traffic.look,)),
        ):
            return context.driver.run(machine, actions)

    def _context(self, repository: str, cleanup: ExitStack, job: str = "") -> Context:
        timing = self._settings.timing
        driver = Driver(self._recorder, self._stop_reason, timing.poll)
        pool = AgentPool(
            self._catalog,
            KeyPair.load(self._settings.identity_file),
            lease=f"session-{self._session}",
            ttl_s=timing.lease_ttl,
            on_push=lambda agent, push: driver.call_soon(lambda: self._dispatch(agent, push)),
        )
        cleanup.callback(pool.close)
        ledger = SlotLedger(self._catalog, ttl_s=timing.lease_ttl)
        cleanup.callback(ledger.release_all, self._session)
        desk = MoverDesk(pool, Routing(self._catalog, pool), driver.post, self._recorder.progress)
        traffic = SessionTraffic(TrafficLedger(self._catalog, ttl_s=timing.lease_ttl), self._session, desk, job)
        return Context(
            catalog=self._catalog,
            session=self._session,
            driver=driver,
            recorder=self._recorder,
            pool=pool,
            desk=desk,
            ledger=ledger,
            traffic=traffic,
            repository=self._catalog.groups.behind(repository)[0],  # of a group any: points have homes of their own
        )

    def _connect(self, host: PluginHost, server: str, cleanup: ExitStack) -> HypervisorDriver:
        """A connected driver of a server, on which everything that dead sessions left open has been fulfilled."""
        entry = self._catalog.servers.get(server)
        secret = self._catalog.servers.secret(server) if entry.has_secret else {}
        driver = host.hypervisor(entry.plugin, entry.options, secret, f"options of server {server}")
        cleanup.callback(driver.close)
        driver.connect()
        fulfilled, complaints = fulfil_open(self._catalog, driver, server)
        if fulfilled:
            self._recorder.note(f"removed {fulfilled} thing(s) on {server} that earlier sessions had left behind")
        for complaint in complaints:
            self._recorder.note(complaint, "warning")
        return driver

    def _plugins(self, hypervisor: str) -> PluginHost:
        return PluginHost.load(self._settings.plugins.disabled, self._settings.plugins.load, {hypervisor})

    def _dispatch(self, agent: str, push: Push | AgentLost) -> None:
        for handler in self._handlers:
            handler(agent, push)

    def _stop_reason(self) -> str:
        if self._signal:
            return self._signal
        return "it was asked to stop" if self._catalog.sessions.stop_requested(self._session) else ""

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = f"signal {signal.Signals(number).name}"


def _insist(write: Callable[[], object]) -> None:
    """The last words of a session, which did all of its work: a catalogue that is away for minutes still gets them."""
    give_up = time.monotonic() + _TO_TELL_S
    while True:
        try:
            write()
            return
        except HoldfastError as error:
            if not error.retryable or time.monotonic() >= give_up:
                raise
            log.warning("how the session ended could not be written down yet: %s", error)
            time.sleep(_TELL_AGAIN_S)


def run_session(settings: ManagerSettings, session: int) -> SessionResult:
    """Open the catalogue and run one session in this process."""
    with Catalog.open(settings) as catalog:
        return SessionProcess(settings, catalog, session).run()
