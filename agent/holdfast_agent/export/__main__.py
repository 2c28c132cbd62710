"""``python -m holdfast_agent.export``: one exporter, started by the Transport Service."""

from .process import main

main()
