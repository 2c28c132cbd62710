"""``python -m holdfast_agent.files``: one look into file systems, started by the Transport Service."""

from holdfast_agent.starting import loading

with loading():
    from .process import main

main()
