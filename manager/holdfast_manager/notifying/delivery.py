"""Delivers notices that are due, one after another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from holdfast_agent.errors import HoldfastError, NotDelivered, NoticeRefused
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import NoticeEntry
from holdfast_manager.enrolment.secret_files import read_env_file
from holdfast_manager.host.host import PluginHost
from holdfast_manager.reports.gathering import whole_report
from holdfast_manager.reports.table import printable
from holdfast_manager.settings import ManagerSettings, NotifierSettings
from holdfast_plugins.api import Notice

from .notice import notice_of

log = logging.getLogger(__name__)

_MAX_REASON = 1000
SEND_S = 60.0
"""Of each attempt. Less than what a claim lasts, so that no two processes send the same."""


def deliver_due(settings: ManagerSettings, catalog: Catalog) -> int:
    """Try each notice that is due now, once. Returns how many were delivered.

    Whatever goes wrong with a notifier is recorded with its notice and logged, never raised; what is raised are the
    errors of the catalogue.
    """
    if not settings.notifiers or not catalog.notices.any_due():
        return 0
    host = PluginHost.load(settings.plugins.disabled, settings.plugins.load)
    delivered = 0
    while (entry := catalog.notices.claim()) is not None:
        delivered += _deliver(settings, catalog, host, entry)
    return delivered


def send(settings: NotifierSettings, host: PluginHost, name: str, notice: Notice, timeout_s: float = SEND_S) -> None:
    """Send one notice by the notifier called ``name``.

    Raises what the plugin may raise, ``ConfigError`` for its options or its file of secrets, or ``NotDelivered`` when
    it has not ended in time: it is left behind in its thread, which does not keep the process from ending.
    """
    secret: Mapping[str, str] = read_env_file(Path(settings.secret_file)) if settings.secret_file else {}
    notifier = host.notifier(settings.plugin, settings.options, f"options of notifier {name}", secret)
    raised: list[HoldfastError] = []

    def work() -> None:
        try:
            notifier.send(notice, timeout_s)
        except HoldfastError as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=f"notifier {name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise NotDelivered(place=name, reason=f"it has not ended within {timeout_s:g} s")
    if raised:
        raise raised[0]


def _deliver(settings: ManagerSettings, catalog: Catalog, host: PluginHost, entry: NoticeEntry) -> bool:
    notice = notice_of(whole_report(catalog, entry.session), entry.notifier)
    try:
        send(settings.notifiers[entry.notifier], host, entry.notifier, notice)
    except HoldfastError as error:
        # what is wrong with a configuration may be mended within the day
        catalog.notices.failed(
            entry, printable(error.text)[:_MAX_REASON], retryable=not isinstance(error, NoticeRefused)
        )
        log.warning("notice of session %d: %s", entry.session, error)
        return False
    catalog.notices.delivered(entry.id)
    log.info("notifier %s was told of session %d", entry.notifier, entry.session)
    return True
