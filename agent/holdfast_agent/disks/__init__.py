"""Disk backends: how a mover reads and writes the disks that a disk URL names."""
