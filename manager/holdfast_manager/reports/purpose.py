"""What a session is for, in a few words."""

from __future__ import annotations

from typing import Any

from holdfast_manager.catalog.values import SessionEntry, SessionKind

_WORDS = {
    SessionKind.BACKUP: "backup by job {job}",
    SessionKind.CLEAN_UP: "clean-up of what sessions left on {server}",
    SessionKind.VERIFY: "verification of {repository}, level {level}",
    SessionKind.GC: "garbage collection of {repository}",
    SessionKind.COPY: "copy of {origin} to {repository}",
    SessionKind.HEAL: "heal of {repository} from {origin}",
    SessionKind.EVACUATE: "evacuation of {repository}",
    SessionKind.BOOT: "boot proof of {point} on {proxy}",
    SessionKind.FILES: "restore of files of {point} to {target} on {proxy}",
    SessionKind.INSTANT: "instant recovery of {point} as {name} on {server}",
    SessionKind.SETTLE: "{end} of the VM of session {instant}",
    SessionKind.EXPORT: "export of {point} on {proxy}",
    SessionKind.RESTORE: "restore of {point} to {place}",
}


class _Told(dict[str, Any]):
    """What a session was asked for; "?" for what its row does not tell, which an older version may have written."""

    def __missing__(self, key: str) -> str:
        return "?"


def what_for(session: SessionEntry) -> str:
    """ "backup by job nightly", "restore of 3f2a1b0c to server lab as web2", "verification of main, level 1"."""
    spec: dict[str, Any] = session.spec
    told = _Told(spec, job=session.job, point=str(spec.get("sid", "?"))[:8])
    told["end"] = "migration" if spec.get("migrate") else "end"
    if session.kind is SessionKind.RESTORE:
        told["place"] = f"server {spec['server']} as {spec.get('name')}" if spec.get("server") else _files(spec)
    return _WORDS[session.kind].format_map(told) + _manner(session.kind, told)


def _manner(kind: SessionKind, told: _Told) -> str:
    """What is said after that."""
    match kind:
        case SessionKind.BACKUP if told.get("again"):
            return f", again what failed in session {told['again']}"
        case SessionKind.GC if told.get("dry_run"):
            return ", a dry run"
        case SessionKind.COPY if told["job"]:
            return f" by job {told['job']}"
        case SessionKind.EXPORT if told.get("writable"):
            return ", writable"
        case SessionKind.RESTORE if told.get("in_place"):
            return ", in place"
    return ""


def _files(spec: dict[str, Any]) -> str:
    proxy = spec.get("proxy")
    if places := dict(spec.get("places") or {}):
        return f"{', '.join(places.values())} on {proxy}"
    directory, files = str(spec.get("directory", "")), list(dict(spec.get("files") or {}).values())
    return f"{directory}/{files[0]} on {proxy}" if len(files) == 1 else f"{directory} on {proxy}"
