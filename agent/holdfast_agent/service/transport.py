"""The loop of the Transport Service: one thread that owns the control socket, the leases and the movers' pipes."""

from __future__ import annotations

import logging
import os

from holdfast_agent.errors import HoldfastError

from .agent import Agent
from .dispatch import Dispatcher
from .health import Numbers, numbers_of
from .lease_handlers import end_lease
from .trusted_clock import SAVE_EVERY_S, TrustedClock

_TICK_S = 1.0
_STOP_WITHIN_S = 30.0  # movers get 10 s; what remains is for aborting their sessions on slow storage

_log = logging.getLogger(__name__)


class TransportService:
    """Runs until :meth:`stop`; then ends all leases, and with them movers and sessions, and returns.

    :meth:`stop` may be called from any thread and from a signal handler; all else belongs to the loop's thread.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._dispatcher = Dispatcher(agent)
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.numbers = Numbers()
        """Replaced at each tick; any thread may read it."""
        self._next_tick = agent.clock()
        self._next_clock_reading = agent.clock()

    def stop(self) -> None:
        """Make :meth:`run` clean up and return. Idempotent."""
        os.eventfd_write(self._stop_fd, 1)

    def run(self) -> None:
        """Serve. The caller closes agent and server afterwards."""
        agent = self._agent
        for fd in (self._stop_fd, *agent.workers_by_fd):
            agent.server.watch(fd)
        try:
            while not self._dispatcher.stopping:
                self._step()
            self._drain()
        finally:
            for fd in (self._stop_fd, *agent.workers_by_fd):
                agent.server.unwatch(fd)
            os.close(self._stop_fd)

    def _step(self) -> None:
        agent = self._agent
        messages, fds = agent.server.poll(max(0.0, self._next_tick - agent.clock()))
        for fd in fds:
            self._ready(fd)
        for incoming in messages:
            self._dispatcher.handle(incoming)
        if agent.clock() >= self._next_tick:
            self._tick()

    def _ready(self, fd: int) -> None:
        agent = self._agent
        if fd == self._stop_fd:
            os.eventfd_read(fd)
            self._dispatcher.stopping = True
        elif fd in agent.workers_by_fd:
            agent.workers_by_fd[fd].finish()
        elif fd in agent.movers_by_fd:  # else it went with its mover in this very round
            agent.movers_by_fd[fd].ready(fd)

    def _tick(self) -> None:
        agent = self._agent
        now = agent.clock()
        self.numbers = numbers_of(agent)
        self._next_tick = now + _TICK_S
        for mover in set(agent.movers_by_fd.values()):
            mover.tick(now)
        agent.nursery.tick()
        for lease in agent.leases.take_expired():
            end_lease(agent, lease, "its manager has not renewed the lease")
        for lease in agent.leases.take_of_others(agent.admits):
            end_lease(agent, lease, "its manager is not authorised any more")
        self._dispatcher.forget_silent()
        if now >= self._next_clock_reading:
            self._next_clock_reading = now + SAVE_EVERY_S
            agent.repository_work.run_always(TrustedClock(agent.settings.clock_file), _clock_was_read)

    def _drain(self) -> None:
        agent = self._agent
        for lease in agent.leases.take_all():
            end_lease(agent, lease, "the agent stops", final=False)
        deadline = agent.clock() + _STOP_WITHIN_S
        while (agent.closing_leases or agent.movers_by_fd) and agent.clock() < deadline:
            self._step()
        if agent.closing_leases:
            _log.error("%d leases could not be cleaned up in time", agent.closing_leases)


def _clock_was_read(outcome: float | HoldfastError) -> None:
    """Only the reading mattered: it tells the next start of the host how long that was away."""
    if isinstance(outcome, HoldfastError):
        _log.error("the trusted clock cannot be kept: %s", outcome)
