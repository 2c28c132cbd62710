"""Retention as text: policies, and what a pruning did or would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_agent.model.units import format_duration
from holdfast_manager.retention.policy import RetentionPolicy

from .sentences import counted
from .table import table
from .times import moment

if TYPE_CHECKING:
    from holdfast_manager.enrolment.pruning import JudgedVm, Pruned

_SID_DIGITS = 12


def policy_text(policy: RetentionPolicy) -> str:
    """ "7 days, 4 weeks; at least 3 points; …"."""
    rules = [(policy.days, "day"), (policy.count, "point"), (policy.weekly, "week"), (policy.monthly, "month"),
             (policy.yearly, "year")]  # fmt: skip
    told = ", ".join(counted(number, noun) for number, noun in rules if number)
    if not told:
        return "everything is kept"
    parts = [told, f"at least {counted(policy.minimum, 'point')}", policy.time_zone]
    parts.append(f"undo within {_span(policy.undo_window_s)}")
    if policy.immutable_s:
        parts.append(f"immutable for {_span(policy.immutable_s)}")
    return "; ".join(parts)


def pruning_text(judged: Sequence[JudgedVm], done: Sequence[Pruned], dry_run: bool) -> str:
    """Every point of ``judged`` with what becomes of it and why, then the sum."""
    if not judged:
        return "No restore points"
    refused = {refusal.sid for each in done for refusal in each.refused}
    verb = "would prune" if dry_run else "pruned"
    cells = [
        (
            decision.sid[:_SID_DIGITS],
            vm.vm_name,
            moment(decision.created),
            "keep" if decision.keep else "refused" if decision.sid in refused else verb,
            "the job is gone" if vm.policy is None else ", ".join(decision.reasons),
            vm.job or "-",
            vm.repository,
        )
        for vm in judged
        for decision in vm.decisions
    ]
    number = sum(len(vm.doomed) for vm in judged) if dry_run else sum(len(each.sids) for each in done)
    total = f"{verb.capitalize()} {counted(number, 'point')} of {len(cells)}"
    undo = [each.undo_until for each in done if each.undo_until is not None]
    if undo:
        total += f"; `holdfast point undo-prune` gives them back until {moment(min(undo))}"
    return f"{table(('point', 'VM', 'created', 'what', 'why', 'job', 'repository'), cells, fold=('why',))}\n\n{total}"


def _span(seconds: float) -> str:
    days, rest = divmod(seconds, 86400)
    return format_duration(seconds) if rest else counted(int(days), "day")
