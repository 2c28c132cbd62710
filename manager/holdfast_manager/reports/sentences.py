"""What an event means, in words. The shapes of ``data`` are those of the structs in ``sessions.events``.

The history of a session may have been written by another version: unknown kinds and missing fields are told as
well as they can be, never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast_agent.model.units import format_duration
from holdfast_manager.catalog.values import EventEntry

Data = Mapping[str, Any]

SHORT_SID = 8
_NOTABLE_WAIT_S = 1.0  # a free slot is granted at the next look at the catalogue; that is no wait worth a word


def sentence(event: EventEntry) -> str:
    """One line about ``event``; empty for one that says nothing to people."""
    write = _SENTENCES.get(event.kind)
    return write(event.data) if write is not None else event.kind


def counted(number: int, noun: str) -> str:
    """ "1 VM", "2 VMs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _planned(data: Data) -> str:
    vms = [vm for vm in data.get("vms", ()) if isinstance(vm, Mapping)]
    disks = sum(len(vm.get("disks", ())) for vm in vms)
    names = ", ".join(str(vm.get("name")) for vm in vms[:5]) + (", …" if len(vms) > 5 else "")
    noun = str(data.get("noun") or "VM")
    return f"{counted(len(vms), noun)} with {counted(disks, 'disk')}: {names}" if vms else f"no {noun}s"


def _granted(data: Data) -> str:
    waited = float(data.get("waited_s") or 0)
    where = f"proxy {data.get('proxy')}, repository {data.get('repository')}"
    return f"{where}, after {format_duration(waited)} in the queue" if waited >= _NOTABLE_WAIT_S else where


def _begun(data: Data) -> str:
    base = data.get("base")
    return f"restore point {short(data.get('sid'))} begun, " + (
        f"compared with {short(base)}" if base else "nothing to compare with"
    )


def _inventory(data: Data) -> str:
    return counted(len(data.get("disks", ())), "disk")


def _quiesced(data: Data) -> str:
    consistency = f"{data.get('consistency', 'crash')}-consistent"
    return f"{consistency} ({data['note']})" if data.get("note") else consistency


def _snapshot(data: Data) -> str:
    frozen = float(data.get("frozen_s") or 0)
    note = str(data.get("note") or data.get("snapshot") or "taken")
    return f"{note}, guest held for {format_duration(frozen)}" if frozen > 0 else note


def _connected(data: Data) -> str:
    if data.get("local"):
        return "proxy and repository are one host"
    if not data.get("source"):
        return "data channel open"
    return f"{data['source']} to {data.get('target')}, {counted(int(data.get('streams') or 1), 'stream')}"


def _began(data: Data) -> str:
    mode, reason = data.get("mode"), str(data.get("reason") or "")
    return f"{mode}: {reason}" if mode and reason else str(mode or reason or "began")


def _missed(data: Data) -> str:
    share = f"{data.get('missed')} of {counted(int(data.get('audited') or 0), 'audited block')}"
    return f"change tracking missed changes: {share} differ; the whole disk is compared"


def _failed(data: Data) -> str:
    error = data.get("error")
    return f"failed: {error.get('message') if isinstance(error, Mapping) else 'unknown error'}"


def _abandoned(data: Data) -> str:
    if data.get("unsettled"):
        return "whether its restore point exists is not known; the repository is asked again"
    return "nothing of the attempt is left"


def _removed(data: Data) -> str:
    if data.get("warning"):
        return f"snapshot not removed: {data['warning']}"
    stood = float(data.get("stood_s") or 0)
    return str(data.get("note") or "snapshot removed") + (f", it stood for {format_duration(stood)}" if stood else "")


def _ended(data: Data) -> str:
    return f"ended: {data.get('result', 'unknown')}"


def short(sid: Any) -> str:
    """The first digits of a restore point's id: enough for people to know it again."""
    return str(sid)[:SHORT_SID]


_SENTENCES: dict[str, Callable[[Data], str]] = {
    "SessionStarted": lambda data: "",
    "VmsPlanned": _planned,
    "SessionFailed": _failed,
    "CancelRequested": lambda data: f"stopping: {data.get('reason', '')}",
    "SlotGranted": _granted,
    "MoversStarted": lambda data: "movers run",
    "MoversConnected": _connected,
    "TransferBegan": _began,
    "ChangesMissed": _missed,
    "TransferFinished": lambda data: "transferred",
    "TaskFailed": _failed,
    "TaskStopped": lambda data: "movers stopped, slots free",
    "RetryDue": lambda data: "tried again",
    "RepositorySessionBegun": _begun,
    "InventoryRead": _inventory,
    "GuestQuiesced": _quiesced,
    "SnapshotTaken": _snapshot,
    "PointCommitted": lambda data: f"restore point {short(data.get('sid'))} committed",
    "SnapshotRemoved": _removed,
    "VmFailed": _failed,
    "VmAbandoned": _abandoned,
    "VmRetryDue": lambda data: "tried again",
    "TargetPrepared": lambda data: str(data.get("note") or "target prepared"),
    "TargetFinished": lambda data: str(data.get("note") or "in its place"),
    "TargetFailed": _failed,
    "TargetAbandoned": lambda data: str(data.get("note") or "what the restore had made is removed"),
    "Note": lambda data: str(data.get("text", "")),
    "SessionEnded": _ended,
}
