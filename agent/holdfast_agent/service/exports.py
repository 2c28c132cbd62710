"""Handlers of exports, and what becomes of what was written to one when its lease ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from holdfast_agent.errors import HoldfastError
from holdfast_agent.export.folder import directory_of, discard, kept_in
from holdfast_agent.wire.messages import DiscardExport, Done, ExportList, KeptExport, ListExports
from holdfast_agent.wire.movers import ExportHost

from .agent import Agent
from .calls import Call
from .leases import Lease

_log = logging.getLogger(__name__)


def export_host(agent: Agent, manager: str) -> ExportHost:
    """What an exporter of that manager (its public key) is told of this host."""
    export = agent.settings.export
    return ExportHost(
        directory=str(_directory(agent, manager)),
        cache_bytes=export.cache_bytes,
        tls_certificate_file=export.tls_certificate_file,
        tls_key_file=export.tls_key_file,
        tls_client_ca_file=export.tls_client_ca_file,
        nfs_addresses=export.nfs_addresses,
        nfs_port=export.nfs_port,
        nfs_scratch_bytes=export.nfs_scratch_bytes,
    )


def list_exports(agent: Agent, call: Call[ListExports]) -> None:
    directory = _directory(agent, call.key)

    def work() -> ExportList:
        kept = (KeptExport(name=name, stored_bytes=size, in_use=used) for name, size, used in kept_in(directory))
        return ExportList(exports=tuple(kept))

    agent.repository_work.run(work, call.settle)


def discard_export(agent: Agent, call: Call[DiscardExport]) -> None:
    directory, name = _directory(agent, call.key), call.request.export

    def work() -> Done:
        discard(directory, name)
        return Done()

    agent.repository_work.run(work, call.settle)


def discard_unkept(agent: Agent, lease: Lease, then: Callable[[], None]) -> None:
    """Remove what was written to exports of a lease that nobody wants to keep; after their exporters are gone."""
    directory = _directory(agent, lease.connection.key)
    names = [name for name, keep in lease.exports.items() if not keep]
    lease.exports.clear()
    if not names:
        then()
        return

    def work() -> None:
        for name in names:
            discard(directory, name)

    def ended(outcome: HoldfastError | None) -> None:
        if isinstance(outcome, HoldfastError):
            _log.warning("an export of lease %s could not be removed: %s", lease.name, outcome)
        then()

    agent.repository_work.run_always(work, ended)


def _directory(agent: Agent, manager: str) -> Path:
    return directory_of(agent.settings.export_dir, manager)
