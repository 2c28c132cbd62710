"""Handlers of lease and mover messages, and what happens when a lease ends."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable

import msgspec

from holdfast_agent.errors import Locked, MoverDied, NotFound, RoleMissing, UsageError, from_record
from holdfast_agent.wire import movers as pipe
from holdfast_agent.wire.messages import (
    BeginTransfer,
    ChangeRules,
    CloseLease,
    Done,
    ListMovers,
    MoverChanged,
    MoverList,
    MoverStarted,
    MoverState,
    PrepareMover,
    RenewLease,
    StartMover,
    StopMover,
)
from holdfast_agent.wire.specs import (
    AnySpec,
    BenchmarkSpec,
    ExporterSpec,
    PairSpec,
    ReaderSpec,
    TargetSpec,
)

from .agent import Agent
from .calls import Call
from .exports import discard_unkept, export_host
from .leases import Lease, check_name
from .mover_birth import Birth, new_program
from .mover_process import PROGRAMS, MoverProcess
from .repositories import allowed_repository
from .session_handlers import abandon_session
from .sessions import check_mover_number

_MOVERS_PER_SLOT = 4  # a bound against a manager gone wild; fair use of the slots is the managers' scheduling
_MOVERS_PER_LEASE = 4096

_log = logging.getLogger(__name__)


def renew_lease(agent: Agent, call: Call[RenewLease]) -> None:
    agent.leases.renew(call.connection, call.request.lease, call.request.ttl_s)
    call.reply(Done())


def close_lease(agent: Agent, call: Call[CloseLease]) -> None:
    lease = agent.leases.take(call.key, call.request.lease)
    if lease is None:
        call.reply(Done())
    else:
        end_lease(agent, lease, "its manager closed the lease", lambda: call.reply(Done()))


def list_movers(agent: Agent, call: Call[ListMovers]) -> None:
    call.reply(MoverList(movers=agent.leases.get(call.key, call.request.lease).states()))


def prepare_mover(agent: Agent, call: Call[PrepareMover]) -> None:
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    if request.mover not in lease.movers:
        _start(agent, lease, request.mover, request.task_id)
    call.reply(Done())


def start_mover(agent: Agent, call: Call[StartMover]) -> None:
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    mover = lease.movers.get(request.mover)
    if mover is None or mover.waits:
        setup = pipe.MoverSetup(host=_host(agent, lease, request.spec), spec=request.spec)
        if mover is None:
            mover = _start(agent, lease, request.mover, request.spec.task_id, setup)
        elif type(request.spec) in PROGRAMS:
            raise UsageError(reason="this is another program than a Data Mover, which cannot be prepared")
        mover.set_up(setup)
        _log.info("%s mover %s of task %s runs as pid %d", mover.role, mover.name, mover.state.task_id, mover.pid)
    mover.when_settled(lambda: _answer_start(call, mover))


def begin_transfer(agent: Agent, call: Call[BeginTransfer]) -> None:
    _mover(agent, call).begin(call.request.order)
    call.reply(Done())


def change_rules(agent: Agent, call: Call[ChangeRules]) -> None:
    _mover(agent, call).change_rules(call.request.rules)
    call.reply(Done())


def stop_mover(agent: Agent, call: Call[StopMover]) -> None:
    mover = agent.leases.get(call.key, call.request.lease).movers.get(call.request.mover)
    if mover is None:
        call.reply(Done())
        return
    mover.stop(call.request.reason[:200])
    mover.when_gone(lambda: call.reply(Done()))


def end_lease(
    agent: Agent, lease: Lease, reason: str, done: Callable[[], None] = lambda: None, *, final: bool = True
) -> None:
    """Stop all that belongs to a lease which was taken from the table; then abort its sessions; then call ``done``.

    The order matters: a session is fenced off only when no mover can write to it any more. ``final``: its manager is
    gone or wants no more; else the agent only restarts, and exports go on where they were.
    """
    _log.info("lease %s ends: %s", lease.name, reason)
    agent.closing_leases += 1
    for event in lease.tickets.values():
        event.set()

    def ended() -> None:
        agent.closing_leases -= 1
        done()

    def movers_gone() -> None:
        sessions = list(lease.sessions.values())
        lease.sessions.clear()
        waits = [functools.partial(abandon_session, agent, session) for session in sessions]
        if final:
            waits.append(functools.partial(discard_unkept, agent, lease))
        _after_all(waits, ended)

    for mover in lease.movers.values():
        mover.stop(reason)
    _after_all([mover.when_gone for mover in lease.movers.values()], movers_gone)


def _after_all(waits: Iterable[Callable[[Callable[[], None]], None]], then: Callable[[], None]) -> None:
    """Call ``then`` once each of ``waits`` has called what it was given; at once if there is none."""
    left = 1

    def one_less() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            then()

    for wait in waits:
        left += 1
        wait(one_less)
    one_less()


def _mover(agent: Agent, call: Call[BeginTransfer] | Call[ChangeRules]) -> MoverProcess:
    mover = agent.leases.get(call.key, call.request.lease).movers.get(call.request.mover)
    if mover is None:
        raise NotFound(kind="mover", name=call.request.mover[:128], advice="The task is started anew")
    return mover


def _start(agent: Agent, lease: Lease, name: str, task_id: str, setup: pipe.MoverSetup | None = None) -> MoverProcess:
    """Start a process for a mover; without ``setup`` one that will be told later what it is."""
    check_name("mover", name)
    check_name("task", task_id)
    _check_room(agent, lease)

    def changed(state: MoverState) -> None:
        agent.push(lease, MoverChanged(lease=lease.name, state=state))

    birth: Birth = agent.nursery.birth
    session_fd = None
    if setup is not None:
        session_fd = setup.host.session_fd
        if type(setup.spec) in PROGRAMS:
            birth = functools.partial(new_program, PROGRAMS[type(setup.spec)])
    try:
        mover = MoverProcess(name, task_id, agent.server, changed, birth, session_fd)
    except OSError as error:
        raise MoverDied(role="new", task=task_id, reason=f"cannot start it: {error.strerror}") from error
    lease.movers[name] = mover
    agent.adopt(mover)
    return mover


def _check_room(agent: Agent, lease: Lease) -> None:
    proxy, repository = agent.settings.proxy, agent.settings.repository
    slots = (proxy.slot_count if proxy else 0) + (repository.slot_count if repository else 0)
    if agent.leases.live_movers() >= slots * _MOVERS_PER_SLOT:
        raise Locked(what=f"the agent {agent.settings.agent_name}", holder=f"{slots * _MOVERS_PER_SLOT} movers")
    if len(lease.movers) >= _MOVERS_PER_LEASE:
        raise Locked(what=f"lease {lease.name}", holder=f"{_MOVERS_PER_LEASE} movers")


def _host(agent: Agent, lease: Lease, spec: AnySpec) -> pipe.MoverHost:
    settings = agent.settings
    for role in _roles_for(spec):
        if role not in settings.roles:
            raise RoleMissing(agent=settings.agent_name, role=role, type=type(spec).__name__)
    storing = spec.follower if isinstance(spec, PairSpec) else spec
    session_fd = None
    if isinstance(storing, (TargetSpec, ReaderSpec, BenchmarkSpec, ExporterSpec)) and storing.repository:
        real = allowed_repository(settings, storing.repository)
    if isinstance(storing, TargetSpec):
        check_mover_number(storing.mover)
        session_fd = lease.session(str(real), storing.sid).lock.fd
    exports = None
    if type(spec) in PROGRAMS:
        exports = export_host(agent, lease.connection.key)
    if isinstance(spec, ExporterSpec):
        lease.exports[spec.export] = spec.keep
    return msgspec.structs.replace(agent.host, session_fd=session_fd, exports=exports)


def _roles_for(spec: AnySpec) -> tuple[str, ...]:
    # A pair, and an exporter that reads a repository on its own host, hold keys and touch the repository.
    if isinstance(spec, PairSpec) or (isinstance(spec, ExporterSpec) and spec.repository):
        return ("proxy", "repository")
    return ("repository",) if isinstance(spec, (TargetSpec, ReaderSpec, BenchmarkSpec)) else ("proxy",)


def _answer_start(call: Call[StartMover], mover: MoverProcess) -> None:
    error = mover.state.error
    if error is not None and not mover.endpoints:
        call.fail(from_record(error))
    else:
        call.reply(MoverStarted(pid=mover.pid, endpoints=mover.endpoints))
