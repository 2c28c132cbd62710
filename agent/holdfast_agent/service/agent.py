"""What all handlers share: the settings, the channel, the leases and the threads for blocking work."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from holdfast_agent.channel.authentication import AuthorisedKeys
from holdfast_agent.channel.control_server import ControlServer
from holdfast_agent.channel.enrolment_tokens import EnrolmentTokens
from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import ConfigInvalid
from holdfast_agent.model.disk_url import DiskScheme
from holdfast_agent.wire.codec import PUSH_CORRELATION
from holdfast_agent.wire.messages import Push
from holdfast_agent.wire.movers import MoverHost

from .identity import identity
from .leases import Lease, LeaseTable
from .mover_birth import MOVER_COMMAND
from .mover_process import MoverProcess
from .nursery import TEMPLATE_COMMAND, Nursery
from .workers import BlockingWorkers

_REPOSITORY_THREADS = 4
_REPOSITORY_WAITING = 64
_VERIFY_THREADS = 1  # it reads at the speed of the disks; two would only disturb each other
_VERIFY_WAITING = 8
_COLLECT_THREADS = 2  # each only watches a process, which may wait for hours for a backup to end
_COLLECT_WAITING = 8


_log = logging.getLogger(__name__)


class Agent:
    """Owned by the loop's thread. ``mover_command`` is replaced in tests only, by another real program."""

    def __init__(
        self,
        settings: AgentSettings,
        server: ControlServer,
        authorised: AuthorisedKeys,
        mover_command: Sequence[str] = MOVER_COMMAND,
        clock: Callable[[], float] = time.monotonic,
        tokens: EnrolmentTokens | None = None,
    ) -> None:
        self.settings = settings
        self.server = server
        self.clock = clock
        self.host = _mover_host(settings)
        self.leases = LeaseTable(clock)
        self.nursery = Nursery(mover_command, TEMPLATE_COMMAND if mover_command is MOVER_COMMAND else ())
        self.repository_work = BlockingWorkers("repository work", _REPOSITORY_THREADS, _REPOSITORY_WAITING)
        self.verify_work = BlockingWorkers("verification", _VERIFY_THREADS, _VERIFY_WAITING)
        self.collect_work = BlockingWorkers("garbage collection", _COLLECT_THREADS, _COLLECT_WAITING)
        workers = (self.repository_work, self.verify_work, self.collect_work)
        self.workers_by_fd = {each.wake_fd: each for each in workers}
        self.collecting: set[str] = set()
        self.unmarked: set[tuple[str, str]] = set()
        """(repository, code): why points are not immutable there, as far as it was told."""
        self.movers_by_fd: dict[int, MoverProcess] = {}
        self.movers_started: Counter[str] = Counter()
        self.movers_ended: Counter[tuple[str, str]] = Counter()
        self.closing_leases = 0
        self.authorised = authorised
        self.tokens = tokens or EnrolmentTokens(settings.tokens_file)
        self._admitted: Mapping[str, str] = MappingProxyType({})
        self._qemu_nbd = shutil.which("qemu-nbd") is not None

    @property
    def tools(self) -> tuple[str, ...]:
        """Optional programs found on this host at start."""
        return ("qemu-nbd",) if self._qemu_nbd else ()

    @property
    def disk_schemes(self) -> tuple[DiskScheme, ...]:
        """Kinds of disks that this host can open, none without the role proxy."""
        if self.settings.proxy is None:
            return ()
        return tuple(scheme for scheme in DiskScheme if scheme is not DiskScheme.IMAGE or self._qemu_nbd)

    def admits(self, key: str) -> bool:
        """Is the manager's key authorised now? A list that became unreadable leaves the last good one in force here;
        new connections are refused meanwhile."""
        try:
            self._admitted = self.authorised.current()
        except (ConfigInvalid, OSError) as error:
            _log.error("the list of authorised keys cannot be read: %s", error)
        return key in self._admitted

    def push(self, lease: Lease, message: Push) -> None:
        """Tell the manager of a lease, if it is connected; otherwise it asks by ``ListMovers`` when it is back."""
        if not lease.closed:
            self.server.send(lease.connection, PUSH_CORRELATION, message)

    def adopt(self, mover: MoverProcess) -> None:
        """Have the loop tell the mover when its descriptors are ready, until it is gone."""
        fds = mover.fds
        self.movers_by_fd.update(dict.fromkeys(fds, mover))
        self.movers_started[mover.role] += 1

        def forget() -> None:
            self.movers_ended[mover.role, mover.state.phase] += 1
            for fd in fds:
                del self.movers_by_fd[fd]

        mover.when_gone(forget)

    def close(self) -> None:
        """Wait for the threads; the server is closed by whoever made it."""
        self.nursery.close()
        for workers in self.workers_by_fd.values():
            workers.close()


def _mover_host(settings: AgentSettings) -> MoverHost:
    """What the configuration says to movers; made once, for asking for the host's name may block."""
    data = settings.data
    return MoverHost(
        agent=settings.agent_name,
        disk_paths=settings.disk_paths,
        repository_paths=settings.repository_paths,
        listen_address=data.listen_address,
        advertised_addresses=data.told_addresses,
        port_range=data.port_range,
        link=data.link,
        cache_dir=str(settings.cache_dir),
        runtime_dir=str(settings.runtime_dir),
        workers=settings.proxy.worker_count if settings.proxy else 1,
        identity=identity(settings),
        disk_servers=settings.proxy.servers if settings.proxy else (),
        tls_ca_file=settings.proxy.tls_ca_file if settings.proxy else "",
        tls_certificate_file=settings.proxy.tls_certificate_file if settings.proxy else "",
        tls_key_file=settings.proxy.tls_key_file if settings.proxy else "",
        vddk_dir=settings.proxy.vddk_dir if settings.proxy else "",
    )
