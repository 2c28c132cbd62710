"""``python -m holdfast_manager.sessions``: the process of a session where it is not forked from the command line."""

from __future__ import annotations

import sys

from holdfast_agent.starting import leave_alone, loading

with loading():
    from .program import main

status = main()
leave_alone()
sys.exit(status)
