"""The garbage collector: condemn, drain, list again, sweep.

It works beside running backups, needs no keys, and may be killed, suspended or taken over by another collector at any
moment. The protocol and why it is safe stand in docs/repository-format.md; tests/model holds a model of it.
"""
