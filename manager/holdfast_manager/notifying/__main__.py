"""``python -m holdfast_manager.notifying``: deliver the notices that are due. Started by the service."""

from __future__ import annotations

import logging

from holdfast_agent.starting import end, loading

with loading():
    from holdfast_agent.errors import HoldfastError
    from holdfast_manager.catalog.catalog import Catalog
    from holdfast_manager.logs import start_logging
    from holdfast_manager.settings import ManagerSettings

    from .delivery import deliver_due


def main() -> int:
    try:
        settings = ManagerSettings.load()
        start_logging(settings.log_level, settings.log_format)
        with Catalog.open(settings) as catalog:
            deliver_due(settings, catalog)
    except HoldfastError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0


end(main())
