"""The Backup Service: starts jobs when they are due, and cleans up after sessions that died.

It only decides and starts processes: each session is a process of its own, which goes on whatever becomes of the
service. All that it must not forget is in the catalogue. Read :mod:`.service` first.
"""
