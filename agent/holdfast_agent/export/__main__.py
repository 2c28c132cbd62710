"""``python -m holdfast_agent.export``: one exporter, started by the Transport Service."""

from holdfast_agent.starting import loading

with loading():
    from .process import main

main()
