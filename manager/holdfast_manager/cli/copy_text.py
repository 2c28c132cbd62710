"""What a copy would do, as text."""

from __future__ import annotations

from holdfast_agent.model.units import format_size
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import table
from holdfast_manager.reports.times import moment
from holdfast_manager.sessions.copy_plan import CopyPlan

_SID_DIGITS = 12


def copy_plan_text(plan: CopyPlan, origin: str, target: str) -> str:
    """Each point that would be copied from ``origin`` to ``target``, then what would not be, and why."""
    cells = [
        (point.sid[:_SID_DIGITS], point.vm_name, moment(point.created),
         format_size(sum(disk.size_bytes for disk in point.disks)), point.job or "-")
        for chain in plan.chains for point in chain
    ]  # fmt: skip
    heads = ("point", "VM", "created", "size", "job")
    parts = [table(heads, cells, right=("size",))] if cells else []
    parts.append(f"{counted(len(cells), 'restore point')} of {origin} to copy; {target} has {plan.present} already")
    if plan.pruned:
        parts.append(f"{counted(plan.pruned, 'restore point')} not to copy: their copies were pruned in {target}")
    if plan.unkept:
        parts.append(f"{counted(plan.unkept, 'restore point')} not to copy: the job's retention would not keep them")
    if plan.suspect:
        which = ", ".join(f"{point.sid[:_SID_DIGITS]} of {point.vm_name}" for point in plan.suspect)
        parts.append(f"Suspect, so left out: {which}")
    if plan.refused:
        parts.append(f"Not authentic or too new, so left out: {', '.join(plan.refused)}")
    return "\n".join(parts)
