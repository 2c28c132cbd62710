"""What people call things: prefixes of restore points, "latest", and names that may be left out where only one fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from holdfast_agent.errors import NotFound, UsageError
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import AgentRole, PointEntryRow, PointState

LATEST = "latest"

_Function = TypeVar("_Function", bound=Callable[..., Any])


def point_options(function: _Function) -> _Function:
    """Of commands that work on one restore point: what :func:`chosen_point` takes."""
    for option in (
        click.option("--repository", help='With "latest": in this repository only.'),
        click.option("--vm", help='With "latest": the newest restore point of this VM.'),
        click.option("--point", required=True, metavar="POINT", help='An id, the beginning of one, or "latest".'),
    ):
        function = option(function)
    return function


def chosen_point(catalog: Catalog, point: str, vm: str | None, repository: str | None = None) -> PointEntryRow:
    """The point that --point (an id, a unique prefix, or "latest" together with --vm) names.

    Raises ``NotFound``, or :class:`UsageError` where more than one fits.
    """
    if point != LATEST:
        row = catalog.points.get(point.lower())
        if repository is not None and row.repository not in _behind(catalog, repository):
            raise UsageError(
                reason=f"restore point {row.sid} is in the repository {row.repository!r}, not {repository!r}"
            )
        if vm is not None and row.vm_name != vm:
            raise UsageError(reason=f"restore point {row.sid} is of the VM {row.vm_name!r}, not {vm!r}")
        return row
    if vm is None:
        raise UsageError(reason="--point latest needs --vm: the newest restore point of which VM?")
    return _latest(catalog, vm, repository)


def in_repository(catalog: Catalog, repository: str, point: str) -> PointEntryRow:
    """The point with the id or prefix ``point``, which must be in ``repository``."""
    return chosen_point(catalog, point, None, repository)


def chosen_proxy(catalog: Catalog, proxy: str | None) -> str:
    """The agent that --proxy names, or the only one with the role."""
    if proxy is not None:
        entry = catalog.agents.get(proxy)
        if AgentRole.PROXY not in entry.roles:
            raise UsageError(reason=f"the agent {proxy!r} is no proxy; its roles: {', '.join(entry.roles)}")
        return entry.name
    proxies = catalog.agents.proxies()
    if len(proxies) != 1:
        known = f"one of {', '.join(proxies)}" if proxies else "there is none yet"
        raise UsageError(reason=f"say --proxy: the agent on whose host the file is written ({known})")
    return proxies[0]


def _behind(catalog: Catalog, name: str) -> tuple[str, ...]:
    """The repositories that the name of a repository or a group means."""
    return tuple(entry.name for entry in catalog.groups.behind(name))


def _latest(catalog: Catalog, vm: str, repository: str | None) -> PointEntryRow:
    known = catalog.points.list(vm_name=vm, within=_behind(catalog, repository) if repository is not None else None)
    rows = [row for row in known if row.state is PointState.OK]
    if not rows:
        raise NotFound(kind="restore point of a VM", name=vm, advice="`holdfast point list` shows what there is")
    servers = sorted({row.server for row in rows})
    if len(servers) > 1:
        reason = f"VMs called {vm!r} were backed up from {', '.join(servers)}; name the restore point by its id"
        raise UsageError(reason=reason)
    # A copy has the time of its original: the one made first is meant then.
    return min((row for row in rows if row.created == rows[0].created), key=lambda row: row.origin is not None)
