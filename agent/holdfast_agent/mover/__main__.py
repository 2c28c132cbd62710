"""``python -m holdfast_agent.mover``: a mover that is started as a program; most are forked from :mod:`.nursery`."""

from holdfast_agent.starting import loading

with loading():
    from .process import main

main()
