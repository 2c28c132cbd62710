"""Traffic rules and preferred networks."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from holdfast_agent.errors import UsageError

from .again import runs_again
from .database import Database
from .rows import NamedRows
from .tables import preferred_networks, traffic_rules
from .values import TrafficRule, check_network

_KIND = "traffic rule"


@runs_again
class TrafficRules:
    """The table of traffic rules, and the list of preferred networks. Thread-safe; every method is one transaction.

    Sessions that run look here every second or so: a change holds for them too.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = NamedRows(traffic_rules, TrafficRule, _KIND)

    def add(self, rule: TrafficRule) -> None:
        """Raises ``AlreadyExists`` or ``ConfigInvalid``."""
        with self._database.writing() as connection:
            self._rows.add(connection, rule)

    def get(self, name: str) -> TrafficRule:
        """Raises ``NotFound`` with the nearest name."""
        with self._database.reading() as connection:
            return self._rows.get(connection, name)

    def list(self) -> tuple[TrafficRule, ...]:
        """All rules, by name."""
        with self._database.reading() as connection:
            return self._rows.list(connection)

    def update(self, rule: TrafficRule) -> None:
        """Replace everything but the name. Raises ``NotFound`` or ``ConfigInvalid``."""
        with self._database.writing() as connection:
            self._rows.update(connection, rule)

    def remove(self, name: str) -> None:
        """Raises ``NotFound``."""
        with self._database.writing() as connection:
            self._rows.remove(connection, name)

    def preferred(self) -> tuple[str, ...]:
        """The networks that movers connect by where both hosts have them, the most wanted first."""
        query = select(preferred_networks.c.network).order_by(preferred_networks.c.place)
        with self._database.reading() as connection:
            return tuple(connection.scalars(query))

    def prefer(self, networks: Sequence[str]) -> None:
        """Replace the list of preferred networks. Raises ``UsageError`` for what is no network."""
        try:
            for network in networks:
                check_network(network)
        except ValueError as error:
            raise UsageError(reason=str(error)) from error
        rows = [{"place": place, "network": network} for place, network in enumerate(dict.fromkeys(networks))]
        with self._database.writing() as connection:
            connection.execute(preferred_networks.delete())
            if rows:
                connection.execute(preferred_networks.insert(), rows)
