"""``python -m holdfast_manager.console``: the web console, started by the service, ends with it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from holdfast_agent.starting import end, loading

with loading():
    from holdfast_agent.errors import ExtraMissing, HoldfastError
    from holdfast_manager.catalog.catalog import Catalog
    from holdfast_manager.logs import start_logging
    from holdfast_manager.settings import ManagerSettings


def main() -> int:
    try:
        settings = ManagerSettings.load()
        start_logging(settings.log_level, settings.log_format)
        _run(settings)
    except HoldfastError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0


def _run(settings: ManagerSettings) -> None:
    try:
        from .app import application
        from .server import serve
        from .visit import Console
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ExtraMissing(purpose="the web console", host="this host", extra="console") from missing
    named = os.environ.get("HOLDFAST_CONFIG")
    with Catalog.open(settings) as catalog:
        console = Console(settings, catalog, Path(named) if named else None)
        try:
            serve(settings, application(console), sys.stdin.fileno())
        finally:
            console.close()


end(main())
