"""How long datastores take for a read or a write now, as the hosts that have them mounted measure it.

Each host keeps an hour of samples of 20 seconds by datastore (vSphere API reference: PerformanceManager; counters
``datastore.totalReadLatency`` and ``datastore.totalWriteLatency``, in milliseconds).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

from .connection import Connection
from .properties import properties_of, properties_of_all
from .watch import Entity

_COUNTERS = ("totalReadLatency", "totalWriteLatency")
_SAMPLE_S, _SAMPLES = 20, 3
_MOST_HOSTS = 8
"""Of one datastore: what it is like for a few tells what it is like."""


class Latencies:
    """Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._counters: tuple[int, ...] | None = None

    def of(self, names: Collection[str], entities: Mapping[str, Entity]) -> Mapping[str, float]:
        """By name in milliseconds, the worst that a host sees; those that nobody measures are left out.

        Raises ``VsphereRefused`` or ``HypervisorUnreachable``.
        """
        known = [moid for moid, each in entities.items() if each.kind == "Datastore" and each.text("name") in names]
        stores = [self._connection.object("Datastore", moid) for moid in known]
        found: dict[str, float] = {}
        for _, told in properties_of_all(self._connection, stores, ("name", "summary.url", "host")):
            instance = str(told.get("summary.url", "")).rstrip("/").rpartition("/")[2]
            hosts = [mount.key for mount in told.get("host") or ()][:_MOST_HOSTS]
            measured = self._measured(hosts, instance) if hosts and instance else []
            if measured:
                found[str(told.get("name"))] = max(measured)
        return found

    def _measured(self, hosts: Collection[Any], instance: str) -> list[float]:
        query = self._connection.vim.PerformanceManager
        metrics = [query.MetricId(counterId=counter, instance=instance) for counter in self._known_counters()]
        specs = [
            query.QuerySpec(entity=host, metricId=metrics, intervalId=_SAMPLE_S, maxSample=_SAMPLES) for host in hosts
        ]
        if not metrics:
            return []
        answers = self._connection.read(lambda content: content.perfManager.QueryPerf(specs))
        series = [each.value for answer in answers or () for each in answer.value if each.value]
        return [sum(values) / len(values) for values in series]

    def _known_counters(self) -> tuple[int, ...]:
        """The numbers that this server has given them, asked for once."""
        with self._lock:
            if self._counters is None:
                manager = self._connection.read(lambda content: content.perfManager)
                told = properties_of(self._connection, manager, ("perfCounter",)).get("perfCounter") or ()
                self._counters = tuple(
                    int(each.key)
                    for each in told
                    if each.groupInfo.key == "datastore" and each.nameInfo.key in _COUNTERS
                )
            return self._counters
