"""The others: agents, servers, repositories. Each is asked at the same time as the rest, and within a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import holdfast_agent
from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.units import GIB, format_size
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import AgentEntry, RepositoryEntry, ServerEntry, SessionResult, SessionState
from holdfast_manager.enrolment.health import AgentState, ask_state
from holdfast_manager.enrolment.repositories import facts_of, require_same
from holdfast_manager.enrolment.servers import connected_driver
from holdfast_manager.host import PluginHost
from holdfast_manager.reports.sentences import counted
from holdfast_plugins.api import ChecksRights

from .findings import Finding, good, missing, of_error, problem, warning

T = TypeVar("T")
MOST_CLOCK_S = 30.0
"""Between two hosts. Retention and immutability count in days; what is a minute off is not kept by NTP."""
LITTLE_ROOM_BYTES = 5 * GIB
_AT_ONCE = 16


def examine_agents(catalog: Catalog, keys: KeyPair) -> Iterator[Finding]:
    entries = catalog.agents.list()
    if not entries:
        advice = "On its host: holdfast-agent init, authorize and run; then here: holdfast agent add NAME HOST KEY"
        yield missing("agents", "there is none to move and keep data", advice)
        return
    yield from _all(entries, lambda entry: _agent(entry, keys))
    roles = {str(role) for entry in entries if entry.enabled for role in entry.roles}
    for role in ("proxy", "repository"):
        if role not in roles:
            advice = f"holdfast-agent init --{role} DIR on a host, and holdfast agent add"
            yield missing("agents", f"none has the role {role}", advice)


def examine_servers(catalog: Catalog, host: PluginHost) -> Iterator[Finding]:
    entries = catalog.servers.list()
    if not entries:
        yield missing(
            "servers",
            "there is none whose VMs could be backed up",
            "holdfast server add NAME --plugin PLUGIN (holdfast plugin list names them)",
        )
        return
    # Secrets first: the catalogue is used by this thread alone.
    secrets = {entry.name: _secret(catalog, entry.name) for entry in entries}
    yield from _all(entries, lambda entry: _server(entry, secrets[entry.name], host))


def examine_repositories(catalog: Catalog, keys: KeyPair) -> Iterator[Finding]:
    entries = catalog.repositories.list()
    agents = {entry.name: entry for entry in catalog.agents.list()}
    if not entries:
        yield missing(
            "repositories",
            "there is none to keep restore points",
            "holdfast repository add NAME --agent AGENT --path DIRECTORY --create",
        )
        return
    yield from _all(entries, lambda entry: [_repository(entry, agents.get(entry.agent), keys)])


def examine_jobs(catalog: Catalog) -> Iterator[Finding]:
    jobs = catalog.jobs.list()
    if not jobs:
        yield missing(
            "jobs", "there is none", "holdfast job create NAME --server SERVER --include '*' --repository REPOSITORY"
        )
        return
    idle = [job.name for job in jobs if not job.enabled]
    yield from filter(None, (_last_session(catalog, job.name) for job in jobs if job.enabled))
    for job in jobs:
        if job.enabled and all(entry.sealed for entry in catalog.groups.behind(job.repository)):
            advice = f"holdfast job edit {job.name} --repository …, or holdfast repository unseal"
            yield problem(f"job {job.name}", f"{job.repository}, where it writes, is sealed: it fails", advice)
    yield good("jobs", f"{len(jobs)}" + (f", of which disabled: {', '.join(idle)}" if idle else ""))


def _last_session(catalog: Catalog, job: str) -> Finding | None:
    """A job whose newest session made no point is no protection, whatever its set-up looks like."""
    for session in catalog.sessions.list(job=job, limit=1):
        if session.state is SessionState.ENDED and session.result in (SessionResult.FAILED, SessionResult.PARTIAL):
            why = f": {session.error.message}" if session.error is not None else ""
            text = f"its last session, {session.id}, ended as {session.result.value}{why}"
            return warning(f"job {job}", text, f"holdfast session show {session.id}; then holdfast job run {job}")
    return None


def _all(entries: Iterable[T], look: Callable[[T], list[Finding]]) -> Iterator[Finding]:
    """In the order of ``entries``."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for found in threads.map(look, entries):
            yield from found


def _agent(entry: AgentEntry, keys: KeyPair) -> list[Finding]:
    subject = f"agent {entry.name}"
    if not entry.enabled:
        return [warning(subject, "it is disabled: nothing new starts there", f"holdfast agent enable {entry.name}")]
    try:
        state = ask_state(entry, keys)
    except HoldfastError as error:
        return [of_error(subject, error, "Is it running? systemctl status holdfast-agent on its host")]
    found = list(_of_state(subject, state))
    return found or [good(subject, f"answers; {', '.join(entry.roles)}, Holdfast {state.hello.software}")]


def _of_state(subject: str, state: AgentState) -> Iterator[Finding]:
    if state.hello.software != holdfast_agent.__version__:
        text = f"it is Holdfast {state.hello.software}, this manager {holdfast_agent.__version__}"
        yield warning(subject, text, "Use the same version on both: what is new in one works only then")
    ahead = state.clock_ahead_s
    if ahead is not None and abs(ahead) > MOST_CLOCK_S + state.answered_s:
        text = f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this host's"
        yield warning(subject, text, "Have both hosts keep their time by NTP")
    for space in state.health.space if state.health is not None else ():
        if space.error:
            yield problem(subject, f"{space.path} ({space.purpose}): {space.error}", "Is its storage mounted?")
        elif space.purpose == "repository" and space.free_bytes < LITTLE_ROOM_BYTES:
            text = f"only {format_size(space.free_bytes)} are free in {space.path}"
            yield warning(subject, text, "holdfast prune, then holdfast repository gc; or give it room")


def _secret(catalog: Catalog, name: str) -> dict[str, str] | HoldfastError:
    try:
        return dict(catalog.servers.secret(name))
    except HoldfastError as error:
        return error


def _server(entry: ServerEntry, secret: dict[str, str] | HoldfastError, host: PluginHost) -> list[Finding]:
    subject = f"server {entry.name}"
    if isinstance(secret, HoldfastError):
        return [of_error(subject, secret)]
    try:
        with connected_driver(host, entry, secret) as driver:
            count = len(driver.list_vms())
            lacking = driver.missing_rights() if isinstance(driver, ChecksRights) else ()
    except HoldfastError as error:
        return [of_error(subject, error)]
    if lacking:
        return [problem(subject, f"rights are missing: {', '.join(lacking)}", "Give them to the user of this server")]
    return [good(subject, f"answers; {counted(count, 'VM')} by the plugin {entry.plugin}")]


def _repository(entry: RepositoryEntry, agent: AgentEntry | None, keys: KeyPair) -> Finding:
    subject = f"repository {entry.name}"
    if agent is None:
        advice = "holdfast agent add, then name the agent in the repository's table and holdfast apply"
        return problem(subject, f"there is no agent {entry.agent}", advice)
    try:
        require_same(entry, facts_of(agent, entry.path, keys))
    except HoldfastError as error:
        return of_error(subject, error, f"Look at the agent {entry.agent} and at the storage below {entry.path}")
    if not entry.encrypted:
        text = "it is not encrypted: whoever reads its storage reads your VMs"
        return warning(subject, text, "Make an encrypted one, and copy the points: holdfast repository copy")
    return good(subject, f"at {entry.path} on {entry.agent}, encrypted")
