"""What each step of a garbage collection does. It runs on the restore's machine, without tasks: the agent works."""

from __future__ import annotations

import queue
import time

from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import Cancelled, HoldfastError, from_record
from holdfast_agent.model.units import format_size
from holdfast_agent.wire.messages import CollectEnded, CollectGarbage, Collection, CollectProgress, Done, Push

from .events import Event, TargetFinished, TargetPrepared
from .requests import GcRequest
from .target_actions import TargetActions
from .tasks import Context

_LOOK_S = 0.5
_NOTE_EVERY_S = 30.0
_PHASES = {
    "marking": "marking what restore points refer to",
    "compacting": "moving what is live out of sparse packs",
    "waiting": "waiting for the backups that run",
    "sweeping": "removing packs",
}


class GcActions(TargetActions):
    """The agent of the repository does all the work; it needs no key.

    Stopping the session ends its lease, and with it the collection, which the next one takes up again.
    """

    def __init__(self, context: Context, request: GcRequest) -> None:
        super().__init__()
        self._context = context
        self._request = request
        self._ends: queue.SimpleQueue[CollectEnded | HoldfastError] = queue.SimpleQueue()
        self._ticket = f"session-{context.session}"
        self._phase = ""
        self._noted = 0.0

    def finish(self) -> Event:
        return TargetFinished(note="nothing was changed" if self._request.dry_run else "only garbage was removed")

    def push(self, agent: str, push: Push | AgentLost) -> None:
        """What the repository's agent says; called in the driver's thread."""
        if isinstance(push, CollectEnded):
            self._ends.put(push)
        elif isinstance(push, CollectProgress):
            self._progressed(push)
        elif isinstance(push, AgentLost) and agent == self._context.repository.agent:
            self._ends.put(push.error)

    def prepare(self) -> Event:
        context = self._context
        request = CollectGarbage(
            lease=context.pool.lease,
            ticket=self._ticket,
            repository=context.repository.path,
            dry_run=self._request.dry_run,
        )
        context.pool.ask(context.repository.agent, request, Done)
        ended = self._wait()
        if isinstance(ended, HoldfastError):
            raise ended
        if ended.error is not None:
            raise from_record(ended.error)
        if ended.collection is not None:
            self._report(ended.collection)
        return TargetPrepared(note="a dry run" if self._request.dry_run else "garbage is collected", tasks=())

    def _wait(self) -> CollectEnded | HoldfastError:
        while True:
            try:
                return self._ends.get(timeout=_LOOK_S)
            except queue.Empty:
                reason = self._context.driver.stop_reason
                if reason:
                    raise Cancelled(reason=reason) from None

    def _progressed(self, push: CollectProgress) -> None:
        now = time.monotonic()
        if push.phase == self._phase and now - self._noted < _NOTE_EVERY_S:
            return
        self._phase, self._noted = push.phase, now
        amount = format_size(push.done) if push.phase == "compacting" else f"{push.done:,}"
        total = format_size(push.total) if push.phase == "compacting" else f"{push.total:,}"
        so_far = f"{amount} of {total}" if push.total else f"{amount} objects so far"
        self._context.recorder.note(f"{_PHASES.get(push.phase, push.phase)}: {so_far}")

    def _report(self, found: Collection) -> None:
        note = self._context.recorder.note
        if found.packs:
            note(
                f"{found.packs:,} packs, {format_size(found.stored_bytes)}; {format_size(found.live_bytes)} of that in "
                f"{found.live_records:,} records are needed by {found.points:,} restore points"
            )
        would = "would be " if self._request.dry_run else ""
        moved = f", {format_size(found.moved_bytes)} {would}moved before" if found.moved_bytes else ""
        note(f"{found.swept_packs:,} packs {would}removed, {format_size(found.freed_bytes)} {would}freed{moved}")
        if found.fenced_sessions:
            note(f"{found.fenced_sessions} sessions were dead and are fenced off", "warning")
        if found.lost_records:
            text = f"{found.lost_records:,} records that restore points need are in no pack: run a verification"
            note(text, "error")
