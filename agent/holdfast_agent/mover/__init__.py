"""Data Movers: one process moves one disk, in a pair over the data channel."""
