"""After a backup session each point that it made is started, where the job asks for it. That never fails the backup."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from holdfast_agent.errors import HoldfastError, InternalError, NotFound
from holdfast_agent.model.units import format_duration
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import BootSettings, JobSpec, PointEntryRow, SessionKind
from holdfast_manager.settings import ManagerSettings
from holdfast_manager.steps import Step

from .children import run_child
from .requests import BootRequest
from .tasks import Context


def prove_new_points(context: Context, job: JobSpec, settings: ManagerSettings, stopped: Callable[[], bool]) -> bool:
    """Start the VM of each new point, one by one, in a session of its own; whether all of them came up.

    Called after retention, in the session's own thread, for as long as the proofs take. ``stopped``: no more is wanted.
    """
    if job.verify_boot is None:
        return True
    whole = True
    for row in context.catalog.points.of_session(context.session):
        if stopped():
            context.recorder.note("the boot proofs that were left were not begun: the session was stopped", "warning")
            return False
        try:
            whole &= _prove(context, row, job.verify_boot, settings, stopped)
        except HoldfastError as error:
            _warn(context, row, error)
            whole = False
        except Exception as error:  # noqa: BLE001 - boundary: a defect here must not turn a good backup into a failed one
            _warn(context, row, InternalError(kind=type(error).__name__, where="a boot proof", reason=str(error)))
            whole = False
    return whole


def proving_agent(catalog: Catalog, repository: str, wanted: str) -> str:
    """The agent that ``wanted`` names; else the repository's own, where nothing goes over the network, or another.

    Raises ``NotFound`` where none is a proxy.
    """
    if wanted:
        return catalog.agents.get(wanted).name
    keeper, proxies = catalog.repositories.get(repository).agent, catalog.agents.proxies()
    if not proxies:
        raise NotFound(kind="agent", name="with the role proxy", advice="A boot proof needs one, with QEMU")
    return keeper if keeper in proxies else proxies[0]


def _prove(
    context: Context, row: PointEntryRow, wanted: BootSettings, settings: ManagerSettings, stopped: Callable[[], bool]
) -> bool:
    proxy = proving_agent(context.catalog, row.repository, wanted.proxy)
    request = BootRequest(repository=row.repository, sid=row.sid, proxy=proxy, settings=wanted)
    begin = partial(context.catalog.sessions.begin, SessionKind.BOOT, msgspec.to_builtins(request))
    entry = run_child(settings, context.catalog, begin, stopped)
    number = entry.id
    boot = context.catalog.points.get(row.sid).boot
    if boot is not None and boot.session == number and boot.proved:
        took = format_duration(boot.seconds)
        context.recorder.note(f"{row.vm_name} boots: {boot.reason} after {took} (session {number})", step=Step.COMMIT)
        return True
    reason = entry.error.message if entry.error is not None else f"session {number} ended as {entry.result.value}"
    context.recorder.note(f"{row.vm_name} was not proven to boot: {reason}", "warning", Step.COMMIT)
    return False


def _warn(context: Context, row: PointEntryRow, error: HoldfastError) -> None:
    context.recorder.note(f"{row.vm_name} could not be proven to boot: {error}", "warning", Step.COMMIT)
