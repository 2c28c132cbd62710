"""Bringing agents, servers and repositories into the catalogue: each is tried before it is written down.

Used by the commands `agent|server|repository add` and by `apply`.
"""
