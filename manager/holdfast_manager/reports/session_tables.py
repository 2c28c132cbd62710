"""What `session show` and the reports that are sent tell of a session, as names with values and as tables."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.model.units import format_duration, format_rate, format_size
from holdfast_manager.catalog.values import NoticeEntry, SessionKind, SessionState

from .sentences import counted
from .session_report import STORING, DiskLine, SessionReport
from .times import clock, moment

_NOTABLE_S = 0.1  # less held up nobody
_NOTABLE_WAIT_S = 1.0  # less is how long it takes to be asked
_FINISHED = "finished"
Fact = tuple[str, str]
"""A name, and what is told of it."""
Row = tuple[str, ...]
STEP_HEADS: Row = ("#", "step", "at", "took", "moved", "what")
NUMBERS = frozenset({
    "#", "took", "moved", "processed", "read", "zero", "unused", "unchanged", "dedup", "transferred", "stored",
    "waited",
})  # fmt: skip
"""Columns that hold numbers."""


def header_facts(report: SessionReport) -> list[Fact]:
    """When it ran, and as what."""
    ended = moment(report.ended)
    if report.ended and report.started:
        ended += f" ({format_duration(report.ended - report.started)})"
    lines = [("Started", moment(report.started or report.created)), ("Ended", ended), ("Ran as", report.process)]
    if report.stop_requested:
        lines.append(("Stop", "was asked for"))
    lines += [("Told", notice_text(notice)) for notice in report.notices]
    if report.state is SessionState.ENDED and all(line.began is None for line in report.steps):
        lines.append(("Events", "none, or forgotten since (history.events)"))
    return lines


def notice_text(notice: NoticeEntry) -> str:
    """ "mail at 2026-11-23 22:01:02", "mail: not yet, in 2 attempts: …"."""
    tries = f" in {counted(notice.attempts, 'attempt')}" if notice.attempts > 1 else ""
    if notice.delivered is not None:
        return f"{notice.notifier}, at {moment(notice.delivered)}{tries}"
    if notice.due is None:
        return f"{notice.notifier} could not be{tries}: {notice.last_error}"
    return f"{notice.notifier} not yet{tries}" + (f": {notice.last_error}" if notice.last_error else "")


def step_rows(report: SessionReport) -> list[Row]:
    """The ten steps, below ``STEP_HEADS``; one that has more to tell takes several rows."""
    rows: list[Row] = []
    for line in report.steps:
        first, *more = line.details or ("-",)
        reached = line.began is not None
        moved = "" if line.bytes is None else format_size(line.bytes)
        took = format_duration(line.took_s) if reached else "-"
        rows.append((str(line.number), line.step.value, clock(line.began), took, moved, first))
        rows += [("", "", "", "", "", detail) for detail in more]
    return rows


def disk_table(report: SessionReport) -> tuple[Row, list[Row]]:
    """Heads, and a row for each disk. Columns that would tell nothing are left out: no line is as wide as all."""
    columns = tuple(each for each in _COLUMNS if each[0] not in _left_out(report))
    nothing = {head for head, amount in _CAUSES if not amount(report.total)}
    if all(disk.state == _FINISHED for disk in report.disks):
        nothing.add("state")
    if all(disk.queue_wait_s < _NOTABLE_WAIT_S for disk in report.disks):
        nothing.add("waited")
    columns = tuple(each for each in columns if each[0] not in nothing)
    return tuple(head for head, _ in columns), [tuple(cell(disk) for _, cell in columns) for disk in report.disks]


def disk_facts(report: SessionReport) -> list[Fact]:
    """Why each disk waits, was read in its mode unless the steps tell that, was held up, and the like."""
    reasons, told_by_steps = [], tuple(detail for line in report.steps for detail in line.details)
    for disk in report.disks:
        place = f"{disk.vm}/{disk.disk}"
        if disk.state == "queued" and disk.reason:
            reasons.append((place, disk.reason))
        elif disk.mode and disk.reason:
            why = f"{disk.mode}: {disk.reason}"
            if not any(detail.endswith(f": {why}") for detail in told_by_steps):
                reasons.append((place, why))
        if disk.counters.audited_blocks:
            reasons.append((place, _audit(disk.counters)))
        if told := throttling(disk.counters):
            reasons.append((place, told))
        if disk.counters.resumed:
            reasons.append((place, _resumed(disk.counters)))
        if report.kind is SessionKind.RESTORE and disk.mode:
            reasons.append((place, _rewritten(disk.counters)))
        if disk.attempt > 1:
            reasons.append((place, f"took {disk.attempt} attempts"))
    return reasons


def load_facts(report: SessionReport) -> list[Fact]:
    """Which stage was busy, which limit held it up, how fast it was; empty before anything was transferred."""
    if not report.load:
        return []
    throttled = throttling(report.total)
    return [
        ("Load", report.load),
        ("Bottleneck", report.bottleneck),
        *([("Limits", throttled)] if throttled else []),
        ("Rate", f"{format_rate(report.rate_bytes_per_s)} {_DONE[report.kind]} while transferring"),
    ]


_DONE = {
    SessionKind.BACKUP: "read", SessionKind.RESTORE: "restored", SessionKind.VERIFY: "checked", SessionKind.GC: "moved",
    SessionKind.COPY: "read", SessionKind.HEAL: "read", SessionKind.EXPORT: "served", SessionKind.BOOT: "read",
    SessionKind.FILES: "restored", SessionKind.INSTANT: "served", SessionKind.SETTLE: "copied",
    SessionKind.EVACUATE: "moved",
}  # fmt: skip


def throttling(counters: TransferCounters) -> str:
    """ "throttled 12 s by traffic rule wan, 3.0 s by write limit of main"; empty if no limit held anything back."""
    told = [
        f"{format_duration(held_s)} by {limit}"
        for limit, held_s in sorted(counters.throttled_by.items(), key=lambda each: -each[1])
        if held_s >= _NOTABLE_S
    ]
    return f"throttled {', '.join(told)}" if told else ""


def data_text(report: SessionReport) -> str:
    """What became of all bytes, in one line."""
    total = report.total
    causes = (
        (total.zero_bytes, "zero"),
        (total.unused_bytes, "unused"),
        (total.unchanged_bytes, "unchanged"),
        (total.deduplicated_bytes, "known"),
    )
    skipped = [f"{format_size(amount)} {cause}" for amount, cause in causes if amount]
    ratio = f" (x {total.sent_bytes / total.transferred_bytes:.1f})" if total.transferred_bytes else ""
    told = [
        f"{format_size(total.processed_bytes)} processed",
        f"{format_size(total.transferred_bytes)} transferred{ratio}",
    ]
    if total.read_bytes and report.kind is SessionKind.RESTORE:
        told[1:1] = [f"{format_size(total.read_bytes)} compared"]
    if report.kind in STORING:
        told[1:1] = [f"{format_size(total.read_bytes)} read"]
        told.append(f"{format_size(total.stored_bytes)} stored")
    return ", ".join(told) + (f"; left out: {', '.join(skipped)}" if skipped else "")


def _audit(counters: TransferCounters) -> str:
    audited, missed = counted(counters.audited_blocks, "block"), counters.missed_blocks
    found = f"{missed} had changed and were not told" if missed else "all as change tracking says"
    return f"audit: {audited} read and compared, {found}"


def _left_out(report: SessionReport) -> frozenset[str]:
    """Columns that would say nothing of this kind of session."""
    if report.kind in STORING:
        return frozenset()
    return _STORING_ONLY if report.total.read_bytes else _STORING_ONLY | _READING


def _rewritten(counters: TransferCounters) -> str:
    written = f"{format_size(counters.sent_bytes + counters.zero_bytes)} written"
    zeros = f", {format_size(counters.zero_bytes)} of it zeros" if counters.zero_bytes else ""
    return f"{format_size(counters.read_bytes)} compared, {written}{zeros}"


def _resumed(counters: TransferCounters) -> str:
    times, again = counted(counters.resumed, "time"), format_size(counters.resent_bytes)
    return f"the connection between the movers broke and went on {times}; {again} sent again"


_COLUMNS: tuple[tuple[str, Callable[[DiskLine], str]], ...] = (
    ("VM", lambda disk: disk.vm),
    ("disk", lambda disk: disk.disk),
    ("state", lambda disk: disk.state),
    ("mode", lambda disk: disk.mode or "-"),
    ("processed", lambda disk: format_size(disk.counters.processed_bytes)),
    ("read", lambda disk: format_size(disk.counters.read_bytes)),
    ("zero", lambda disk: format_size(disk.counters.zero_bytes)),
    ("unused", lambda disk: format_size(disk.counters.unused_bytes)),
    ("unchanged", lambda disk: format_size(disk.counters.unchanged_bytes)),
    ("dedup", lambda disk: format_size(disk.counters.deduplicated_bytes)),
    ("transferred", lambda disk: format_size(disk.counters.transferred_bytes)),
    ("stored", lambda disk: format_size(disk.counters.stored_bytes)),
    ("waited", lambda disk: format_duration(disk.queue_wait_s)),
)
_CAUSES: tuple[tuple[str, Callable[[TransferCounters], int]], ...] = (
    ("zero", lambda total: total.zero_bytes),
    ("unused", lambda total: total.unused_bytes),
    ("unchanged", lambda total: total.unchanged_bytes),
    ("dedup", lambda total: total.deduplicated_bytes),
)
"""Columns that are left out where no disk has any of it."""
_READING = frozenset({"mode", "read", "unchanged"})
"""Of sessions that look at a disk: those that store, and restores in place, which compare."""
_STORING_ONLY = frozenset({"dedup", "stored"})
