"""What tasks want, in short."""

from __future__ import annotations

from typing import Any

from holdfast_manager.catalog.values import SessionKind, SessionResult
from holdfast_manager.scheduler.slots import SlotLedger, Wish
from lab.installation import Installation
from lab.services import catalogue
from lab.waiting import wait_until


def wish(*proxies: str, repository: str = "main", **more: Any) -> Wish:
    """One of ``proxies``, the most wanted first, and a repository."""
    return Wish(proxies=tuple((name,) for name in proxies), repository=repository, **more)


def assert_waits_for(house: Installation, job: str, resource: str) -> None:
    """While somebody else has the only slot of ``resource``, the tasks of a job wait for it, and say so; then they go
    on. ``job`` is its repository's name too."""
    with catalogue(house) as catalog:
        ledger = SlotLedger(catalog)
        other = catalog.sessions.begin(SessionKind.VERIFY, {}).id
        ledger.request(other, 1, wish("local", repository=job, limits=(resource,)))
        assert ledger.poll(other).grants
        number = house.holdfast("job", "run", job, "--detach")["session"]
        waits = wait_until(lambda: ledger.poll(number).waits, "tasks that wait")
        assert {wait.reason.partition(",")[0] for wait in waits} == {f"waiting for a slot on {resource}"}
        catalog.sessions.end(other, SessionResult.SUCCESS)
        wait_until(lambda: catalog.sessions.get(number).ended, "the session's end")
        assert catalog.sessions.get(number).result is SessionResult.SUCCESS
