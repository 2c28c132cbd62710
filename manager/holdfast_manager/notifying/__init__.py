"""Telling people and programs that sessions have ended: after the session, in a process that runs none."""
