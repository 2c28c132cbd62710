"""``python -m holdfast_agent.mover``: started by the Transport Service, one process for each side of a task."""

from .process import main

main()
