"""The only package that speaks ZeroMQ: the control channel and the data channel between movers."""
