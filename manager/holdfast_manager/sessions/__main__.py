"""``python -m holdfast_manager.sessions``: the process of a session where it is not forked."""

from __future__ import annotations

from holdfast_agent.starting import end, loading

with loading():
    from .program import main

end(main())
