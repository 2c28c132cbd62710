"""``python -m holdfast_agent.boot``: one boot proof, started by the Transport Service."""

from holdfast_agent.starting import loading

with loading():
    from .process import main

main()
