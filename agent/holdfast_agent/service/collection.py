"""The handler of ``CollectGarbage``: a process, watched by a thread, told by pushes, ended with its lease."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from holdfast_agent.errors import Locked, MoverDied
from holdfast_agent.starting import module_command
from holdfast_agent.wire.messages import CollectEnded, CollectGarbage, CollectProgress

from .agent import Agent
from .calls import Call
from .mover_birth import mover_environment
from .repositories import allowed_repository
from .ticketed import lease_for, run_ticketed

COLLECTOR_COMMAND: Final = module_command("holdfast_agent.service.collector_process")
_STOP_S = 10.0
_LOOK_S = 0.5
_DYING_S = 1.0
_LINE_BYTES = 1 << 20
_decoder = msgspec.json.Decoder(CollectProgress | CollectEnded)


def collect_garbage(agent: Agent, call: Call[CollectGarbage]) -> None:
    request = call.request
    lease = lease_for(agent, call, "collection")
    if lease is None:
        return
    path = str(allowed_repository(agent.settings, request.repository))
    if path in agent.collecting:
        raise Locked(what=f"the garbage of {path}", holder="another collection")
    task = {
        "ticket": request.ticket,
        "repository": path,
        "cache_dir": str(agent.settings.cache_dir),
        "clock_file": str(agent.settings.clock_file),
        "dry_run": request.dry_run,
        "immutable_helper": agent.settings.immutable_helper,
        "host": agent.host.identity,
    }

    def progressed(push: CollectProgress) -> None:
        agent.collect_work.post(lambda: agent.push(lease, push))

    def work(stop: threading.Event) -> CollectEnded:
        return _run(msgspec.json.encode(task), stop, progressed)

    def over() -> None:
        agent.collecting.discard(path)

    run_ticketed(agent, call, lease, agent.collect_work, work, CollectEnded, over)
    agent.collecting.add(path)


def _run(task: bytes, stop: threading.Event, progressed: Callable[[CollectProgress], None]) -> CollectEnded:
    """Run the process to its end; in a thread. It and its group are gone when this returns."""
    process = subprocess.Popen(
        COLLECTOR_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd="/",
        env=mover_environment(os.environ), process_group=0,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - PIPE was asked for
    ended: CollectEnded | None = None
    try:
        os.write(process.stdin.fileno(), task + b"\n")  # a fresh pipe takes it at once
        for push in _pushes(process.stdout.fileno(), stop, process.stdin.close):
            if isinstance(push, CollectEnded):
                ended = push
            else:
                progressed(push)
    finally:
        process.stdin.close()
        try:
            status = process.wait(_STOP_S if ended else _DYING_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        process.stdout.close()
    if ended is None:
        reason = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        raise MoverDied(role="collector", task="garbage collection", reason=reason)
    return ended


def _pushes(
    fd: int, stop: threading.Event, tell_to_stop: Callable[[], None]
) -> Iterator[CollectProgress | CollectEnded]:
    """What the process says, until it says no more; or until it was told to stop and does not."""
    data = b""
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        if stop.is_set() and deadline is None:
            tell_to_stop()
            deadline = time.monotonic() + _STOP_S
        if not select.select([fd], [], [], _LOOK_S)[0]:
            continue
        more = os.read(fd, 1 << 16)
        if not more or len(data) > _LINE_BYTES:
            return
        *lines, data = (data + more).split(b"\n")
        for line in lines:
            yield _decoder.decode(line)
