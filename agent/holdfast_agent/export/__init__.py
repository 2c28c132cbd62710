"""Restore points over NBD: a server of our own, the server's side of ``disks.nbd``.

A process of its own for each export, started by the agent. It reads the encrypted, deduplicated repository as clients
ask for it: nothing is restored first. Protocol facts:
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. Everything that a client says is bounded before
memory is taken for it.
"""
