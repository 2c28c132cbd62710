"""The manager's API: the command line of users on other hosts, over ZeroMQ with CURVE.

``service run`` serves it (``server``), ``holdfast --manager NAME`` speaks to it (``client``). What is said is in
``messages`` and in docs/api-protocol.md. A command travels as its list of arguments with the files that it reads; the
service runs it as a process of its own, as it would run on the manager's host, and its streams travel back.
"""
