"""A session report as text."""

from __future__ import annotations

import textwrap

from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.model.units import format_duration, format_rate, format_size
from holdfast_manager.catalog.values import SessionKind, SessionState

from .problems import Problem
from .session_report import DiskLine, SessionReport
from .steps import StepLine
from .table import facts, indented, printable, table
from .times import clock, moment

_PROBLEM_WIDTH = 100


def session_text(report: SessionReport) -> str:
    """The whole of `session show`: header, ten steps, disks, points, load, problems."""
    parts = [
        f"Session {report.id}: {report.what}: {outcome(report)}",
        indented(facts(_header(report))),
        "Steps\n" + indented(_steps(report.steps)),
    ]
    if report.disks:
        parts.append("Disks\n" + indented(_disks(report)))
    if report.points:
        rows = [(point.sid, point.vm, f"{point.consistency}-consistent") for point in report.points]
        parts.append("Restore points\n" + indented(table(("point", "VM", "state"), rows)))
    if report.load:
        parts.append("Load\n" + indented(facts(_load(report))))
    for level, title in (("warning", "Warnings"), ("error", "Errors")):
        told = [problem for problem in report.problems if problem.level == level]
        if told:
            parts.append(f"{title}\n" + "\n".join(_problem(problem) for problem in told))
    return "\n\n".join(parts)


def outcome(report: SessionReport) -> str:
    """ "success", or what state a session is in that has not ended."""
    return report.result.value if report.state is SessionState.ENDED else report.state.value


def summary_text(report: SessionReport) -> str:
    """What somebody who has just watched the session still wants to know: a few lines."""
    took = format_duration(report.ended - report.started) if report.ended and report.started else "-"
    lines = [f"Session {report.id}: {report.what}: {outcome(report)} after {took}"]
    if report.disks and report.total.processed_bytes:
        lines.append(indented(facts([("Data", _data(report.total)), *_load(report)])))
    for point in report.points:
        lines.append(f"  Restore point {point.sid} of {printable(point.vm)} ({point.consistency}-consistent)")
    lines += [_problem(problem) for problem in report.problems]
    lines.append(f"  Details: holdfast session show {report.id}")
    return "\n".join(lines)


def _header(report: SessionReport) -> list[tuple[str, str]]:
    ended = moment(report.ended)
    if report.ended and report.started:
        ended += f" ({format_duration(report.ended - report.started)})"
    lines = [("Started", moment(report.started or report.created)), ("Ended", ended), ("Ran as", report.process)]
    if report.stop_requested:
        lines.append(("Stop", "was asked for"))
    return lines


def _steps(steps: list[StepLine]) -> str:
    rows: list[tuple[str, str, str, str, str, str]] = []
    for line in steps:
        first, *more = line.details or ("-",)
        reached = line.began is not None
        moved = "" if line.bytes is None else format_size(line.bytes)
        took = format_duration(line.took_s) if reached else "-"
        rows.append((str(line.number), line.step.value, clock(line.began), took, moved, first))
        rows += [("", "", "", "", "", detail) for detail in more]
    return table(("#", "step", "at", "took", "moved", "what"), rows, right=("#", "took", "moved"))


def _disks(report: SessionReport) -> str:
    heads = (
        "VM", "disk", "state", "mode", "processed", "read", "zero", "unchanged", "dedup", "transferred", "stored",
        "waited",
    )  # fmt: skip
    rows = [_disk_row(disk) for disk in report.disks]
    text = table(heads, rows, right=heads[4:])
    reasons = []
    for disk in report.disks:
        place = f"{disk.vm}/{disk.disk}"
        if disk.mode and disk.reason:
            reasons.append((place, f"{disk.mode}: {disk.reason}"))
        if disk.attempt > 1:
            reasons.append((place, f"took {disk.attempt} attempts"))
    # a verification has no mode, and a restore tells its reasons elsewhere
    return f"{text}\n\n{facts(reasons)}" if reasons and report.kind is SessionKind.BACKUP else text


def _disk_row(disk: DiskLine) -> tuple[str, ...]:
    counters = disk.counters
    return (
        disk.vm,
        disk.disk,
        disk.state,
        disk.mode or "-",
        format_size(counters.processed_bytes),
        format_size(counters.read_bytes),
        format_size(counters.zero_bytes),
        format_size(counters.unchanged_bytes),
        format_size(counters.deduplicated_bytes),
        format_size(counters.transferred_bytes),
        format_size(counters.stored_bytes),
        format_duration(disk.queue_wait_s),
    )


def _load(report: SessionReport) -> list[tuple[str, str]]:
    if not report.load:
        return []
    return [
        ("Load", report.load),
        ("Bottleneck", report.bottleneck),
        ("Rate", f"{format_rate(report.rate_bytes_per_s)} read while transferring"),
    ]


def _data(total: TransferCounters) -> str:
    skipped = [
        f"{format_size(amount)} {cause}"
        for amount, cause in (
            (total.zero_bytes, "zero"),
            (total.unchanged_bytes, "unchanged"),
            (total.deduplicated_bytes, "stored already"),
        )
        if amount
    ]
    left_out = f"; left out: {', '.join(skipped)}" if skipped else ""
    ratio = f" (x {total.sent_bytes / total.transferred_bytes:.1f})" if total.transferred_bytes else ""
    return (
        f"{format_size(total.processed_bytes)} processed, {format_size(total.read_bytes)} read, "
        f"{format_size(total.transferred_bytes)} transferred{ratio}, {format_size(total.stored_bytes)} stored{left_out}"
    )


def _problem(problem: Problem) -> str:
    about = f"{problem.about}: " if problem.about else ""
    at = f" (at {problem.at}" + (f", {problem.times} times)" if problem.times > 1 else ")") if problem.at else ""
    mark = "!" if problem.level == "error" else "*"
    text = printable(f"{about}{problem.message}{at}")
    lines = textwrap.wrap(text, _PROBLEM_WIDTH, initial_indent=f"  {mark} ", subsequent_indent="    ")
    if problem.action:
        lines += textwrap.wrap(
            printable(problem.action), _PROBLEM_WIDTH, initial_indent="    ", subsequent_indent="    "
        )
    return "\n".join(lines)
