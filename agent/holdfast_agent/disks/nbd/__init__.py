"""NBD, the client's side: fixed newstyle, TLS, structured replies, several connections with several requests each.

Protocol facts: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. Everything that a server says is
bounded before memory is taken for it.
"""
