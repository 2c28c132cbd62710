"""What each kind of session is made of: its request, its machine, its actions, and what comes after them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from holdfast_agent.errors import Cancelled, HoldfastError
from holdfast_manager.broker.broker import Broker
from holdfast_manager.catalog.errors import ObligationsOpen
from holdfast_manager.catalog.repository_keys import repository_keys
from holdfast_manager.catalog.values import JobSpec, ServerLimits, SessionKind, SessionResult
from holdfast_manager.steps import Step

from .backup_actions import BackupActions
from .backup_machine import BackupMachine
from .boot_actions import BootActions
from .copy_actions import CopyActions
from .evacuating import Evacuation
from .export_actions import EXPORT_RETRIES, ExportActions
from .files_actions import FilesActions
from .gc_actions import GcActions
from .heal_actions import HealActions
from .homes import Homes
from .hypervisor_side import Platform
from .instant_actions import InstantActions
from .keys import session_keys
from .point_reader import PointReader
from .proving import prove_new_points
from .quiescing import Guest
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
from .restore_actions import RestoreActions
from .restore_machine import RestoreMachine
from .retaining import apply_retention
from .retrying import vms_without_point
from .settling import Settling
from .task_machine import RetryPolicy
from .tasks import Context
from .verify_actions import VerifyActions
from .workshop import Workshop
from .write_sessions import open_repositories

Request = TypeVar("Request", bound=msgspec.Struct)

_MADE_POINTS = (SessionResult.SUCCESS, SessionResult.WARNING, SessionResult.PARTIAL)
"""A VM that failed loses nothing by the others' retention: its points do not grow older without a new one."""


def run_kind(shop: Workshop) -> SessionResult:
    """Run the session of ``shop`` as its kind wants it. Raises what ends it before its machine could say how."""
    return SessionResult(_KINDS[shop.entry.kind](shop))


# --- what makes restore points ----------------------------------------------------------------------------------------


def _backup(shop: Workshop, request: BackupRequest) -> str:
    catalog, job = shop.catalog, shop.catalog.jobs.get(shop.entry.job)
    if catalog.groups.named(job.repository) is None:  # of a group other members may do
        repository_keys(catalog, catalog.repositories.get(job.repository))
    platform = _platform(shop, job)
    context = shop.context(job.repository, job.name, job.retry_pause_s)
    only = vms_without_point(catalog, request.again) if request.again is not None else None
    actions = BackupActions(context, job, Homes(context, job.repository), platform, only)
    machine = BackupMachine(RetryPolicy(job.retries, job.retry_pause_s))
    result = shop.drive(context, machine, actions, actions.tasks.push)
    return _after_points(shop, context, job, job.repository, result)


def _platform(shop: Workshop, job: JobSpec) -> Platform:
    """The job's server, connected, and what quiesces its guests."""
    source = f"job {job.name}"
    server = shop.catalog.servers.get(job.source)
    host = shop.plugins(server.plugin)
    options = host.snapshot_options(server.plugin, job.snapshot, f"snapshot options of {source}")
    guest = None
    if job.guest is not None:
        processor = host.guest_processor(job.guest.processor, job.guest.options, f"guest options of {source}")
        shop.cleanup.callback(processor.close)
        guest = Guest(processor, job.guest.policy)
    hypervisor = shop.connect(host, server.name)
    return Platform(
        server=server.name,
        limits=server.limits or ServerLimits(),
        driver=hypervisor,
        broker=Broker(hypervisor, server.name),
        trackers=host.change_trackers(server.plugin, hypervisor),
        journal=shop.journal(server.name, server.plugin),
        guest=guest,
        snapshot_options=options,
    )


def _copy(shop: Workshop, request: CopyRequest) -> str:
    job = shop.catalog.jobs.get(request.job) if request.job else None
    copies = job if job is not None and job.copy is not None else None
    policy = RetryPolicy(copies.retries, copies.retry_pause_s) if copies is not None else RetryPolicy()
    context = shop.context(request.repository, copies.name if copies is not None else "", policy.pause_s)
    homes = Homes(context, request.repository, leave_out=request.origin)  # not into a member that is evacuated
    actions = CopyActions(context, request, _origins(shop, context, request.origin), homes, job)
    result = shop.drive(context, BackupMachine(policy), actions, actions.tasks.push)
    return _after_points(shop, context, job, request.repository, result) if job is not None else result


def _origins(shop: Workshop, context: Context, origin: str) -> tuple[PointReader, ...]:
    """What a copy reads from: of a group the members that answer, what others have is copied by the next run."""
    entries = shop.catalog.groups.behind(origin)
    readers = []
    for entry in entries:
        try:
            open_repositories(context, entry)
            readers.append(PointReader(context, entry, session_keys(context, entry)))
        except HoldfastError as error:
            if len(entries) == 1:
                raise
            shop.recorder.note(f"{entry.name} cannot be read now: {error}", "warning", Step.START)
    return tuple(readers)


def _after_points(shop: Workshop, context: Context, job: JobSpec, target: str, result: str) -> str:
    """Retention and boot proofs of a session's new points. Its result, with a warning where one does not boot."""
    if SessionResult(result) not in _MADE_POINTS:
        return result
    apply_retention(context, job, target)
    proven = prove_new_points(context, job, shop.settings, shop.stopped)
    return SessionResult.WARNING if not proven and result == SessionResult.SUCCESS else result


# --- what reads them --------------------------------------------------------------------------------------------------


def _restore(shop: Workshop, request: RestoreRequest) -> str:
    destination = shop.destination(request.server) if request.server else None
    context = shop.context(request.repository)
    actions = RestoreActions(context, request, session_keys(context), destination)
    return shop.drive(context, RestoreMachine(RetryPolicy()), actions, actions.tasks.push)


def _restore_files(shop: Workshop, request: FilesRequest) -> str:
    context = shop.context(request.repository)
    actions = FilesActions(context, request, session_keys(context))
    policy = RetryPolicy(retries=0) if request.mount else RetryPolicy()
    result = shop.drive(context, RestoreMachine(policy), actions, actions.push)
    return _ended_by_stop(result) if request.mount else result


def _export(shop: Workshop, request: ExportRequest) -> str:
    context = shop.context(request.repository)
    actions = ExportActions(context, request, session_keys(context))
    return _ended_by_stop(shop.drive(context, RestoreMachine(EXPORT_RETRIES), actions, actions.push))


def _run_instantly(shop: Workshop, request: InstantRequest) -> str:
    destination = shop.destination(request.server)
    context = shop.context(request.repository)
    actions = InstantActions(context, request, session_keys(context), destination)
    return _ended_by_stop(shop.drive(context, RestoreMachine(EXPORT_RETRIES), actions, actions.push))


def _ended_by_stop(result: str) -> str:
    """To be stopped is how a session ends well that serves something until then."""
    return SessionResult.SUCCESS if result == SessionResult.CANCELLED else result


def _settle(shop: Workshop, request: SettleRequest) -> str:
    wanted = msgspec.convert(shop.catalog.sessions.get(request.instant).spec, InstantRequest)
    destination = shop.destination(wanted.server)
    settling = Settling(shop.catalog, shop.recorder, shop.identity(), shop.stopped)

    def settle() -> str:
        settling.run(request, wanted, destination)
        return SessionResult.SUCCESS

    return _unless_stopped(shop, settle)


def _prove_boot(shop: Workshop, request: BootRequest) -> str:
    context = shop.context(request.repository)
    actions = BootActions(context, request, session_keys(context), shop.settings.proof_dir)
    return shop.drive(context, RestoreMachine(RetryPolicy(retries=1)), actions, actions.push)


# --- what looks after repositories and servers ------------------------------------------------------------------------


def _verify(shop: Workshop, request: VerifyRequest) -> str:
    context = shop.context(request.repository)
    actions = VerifyActions(context, request, session_keys(context))
    machine = RestoreMachine(RetryPolicy(retries=1), keep_going=True)
    return shop.drive(context, machine, actions, actions.tasks.push, actions.push)


def _collect(shop: Workshop, request: GcRequest) -> str:
    context = shop.context(request.repository)
    actions = GcActions(context, request)
    return shop.drive(context, RestoreMachine(RetryPolicy()), actions, actions.push)


def _heal(shop: Workshop, request: HealRequest) -> str:
    context = shop.context(request.repository)
    entry = shop.catalog.repositories.get(request.origin)
    origin = PointReader(context, entry, session_keys(context, entry))
    actions = HealActions(context, request, origin, session_keys(context))
    machine = RestoreMachine(RetryPolicy(), keep_going=True, one_by_one=True)
    return shop.drive(context, machine, actions, actions.tasks.push, actions.push)


def _evacuate(shop: Workshop, request: EvacuateRequest) -> str:
    def evacuate() -> str:
        return Evacuation(shop.settings, shop.catalog, shop.recorder, request.repository, shop.stopped).run()

    return _unless_stopped(shop, evacuate)


def _clean_up(shop: Workshop, request: CleanUpRequest) -> str:
    """All of it is done by whoever connects; it fails when anything stays open, so that somebody hears of it."""
    plugin = shop.catalog.servers.get(request.server).plugin
    shop.connect(shop.plugins(plugin), request.server)
    living = {session.id for session in shop.catalog.sessions.living()}
    owed = [each for each in shop.catalog.obligations.open_of(server=request.server) if each.session not in living]
    if owed:
        raise ObligationsOpen(count=len(owed), server=request.server, reason=owed[0].last_error)
    return SessionResult.SUCCESS


def _unless_stopped(shop: Workshop, work: Callable[[], str]) -> str:
    """Of what is no machine, and so ends by an exception when it is stopped."""
    try:
        return work()
    except Cancelled as stopped:
        shop.recorder.note(stopped.text)
        return SessionResult.CANCELLED


def _asked(request: type[Request], run: Callable[[Workshop, Request], str]) -> Callable[[Workshop], str]:
    """``run`` with the request that stands in the session's row."""
    return lambda shop: run(shop, msgspec.convert(shop.entry.spec, request))


_KINDS: dict[SessionKind, Callable[[Workshop], str]] = {
    SessionKind.BACKUP: _asked(BackupRequest, _backup),
    SessionKind.RESTORE: _asked(RestoreRequest, _restore),
    SessionKind.VERIFY: _asked(VerifyRequest, _verify),
    SessionKind.GC: _asked(GcRequest, _collect),
    SessionKind.COPY: _asked(CopyRequest, _copy),
    SessionKind.EXPORT: _asked(ExportRequest, _export),
    SessionKind.BOOT: _asked(BootRequest, _prove_boot),
    SessionKind.FILES: _asked(FilesRequest, _restore_files),
    SessionKind.INSTANT: _asked(InstantRequest, _run_instantly),
    SessionKind.SETTLE: _asked(SettleRequest, _settle),
    SessionKind.EVACUATE: _asked(EvacuateRequest, _evacuate),
    SessionKind.HEAL: _asked(HealRequest, _heal),
    SessionKind.CLEAN_UP: _asked(CleanUpRequest, _clean_up),
}
