"""``python -m holdfast_agent.mover``: started by the Transport Service, one process for each side of a task."""

from holdfast_agent.starting import loading

with loading():
    from .process import main

main()
