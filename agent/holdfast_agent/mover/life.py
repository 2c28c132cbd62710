"""The frame of every process that an agent starts for a task: orders come in, one last report goes out, and it ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from holdfast_agent.errors import HoldfastError, InternalError
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.wire.movers import Finished

from .control import Control


def live(
    what: str, work: Callable[[Control], Finished], counters: Callable[[], TransferCounters] = TransferCounters
) -> NoReturn:
    """Do ``work`` and end the process; talks on descriptors 0 and 1 only. Called once, by its main thread.

    Whatever ``work`` raises becomes the last report, with what ``counters`` tells by then. ``what``: the process, as
    people and logs call it.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    control = Control()
    control.catch_sigterm()
    status = 0
    try:
        control.report(work(control))
    except Exception as error:
        status = 1
        known = error if isinstance(error, HoldfastError) else None
        record = (known or InternalError(kind=type(error).__name__, where=what, reason=str(error))).to_record()
        logging.getLogger("holdfast").info("%s ended: %s", what, record.message, exc_info=None if known else error)
        control.failed(record, counters())
    sys.stderr.flush()
    # Not sys.exit: a thread that hangs in a system call, or sockets that linger, must not hold the process.
    os._exit(status)
