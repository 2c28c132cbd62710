"""The pair of movers that brings a disk into a write session of our repository: in backups, copies and heals."""

from __future__ import annotations

from holdfast_agent.model.rules import Compression, TransferRules
from holdfast_agent.model.units import format_rate
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.specs import SourceSpec, TargetSpec

from .events import TaskKey
from .movers import Feeder
from .tasks import Context
from .write_sessions import WriteAttempt


def start_writing_movers(
    context: Context,
    key: TaskKey,
    proxy: str,
    attempt: WriteAttempt,
    rules: TransferRules,
    keys: RepositoryKeys,
    feeder: Feeder | None = None,
) -> None:
    """Have the desk start a source at ``proxy`` and a target for ``attempt``. ``feeder``: see ``MoverDesk.start``."""
    repository, sid, number = context.repository, attempt.sid, attempt.next_mover()
    context.desk.start(
        key,
        repository.agent,
        lambda name, secret: TargetSpec(
            task_id=name, secret=secret, rules=rules, repository=repository.path, sid=sid, mover=number
        ),
        proxy,
        lambda name, secret, endpoints: SourceSpec(
            task_id=name, secret=secret, rules=rules, endpoints=endpoints, keys=keys.data_keys()
        ),
        feeder,
    )


def told_rules(context: Context, compression: Compression, bandwidth_bytes_per_s: int | None) -> str:
    """What people are told of how the data travels and is kept."""
    sealed = "encrypted" if context.repository.encrypted else "not encrypted"
    rate = bandwidth_bytes_per_s
    return f"{compression}, {sealed}" + (f", at most {format_rate(rate)} for all tasks together" if rate else "")
