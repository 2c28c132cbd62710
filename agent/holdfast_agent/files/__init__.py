"""Files out of restore points: the file systems on an export's disks, read by a process that can do nothing else.

A restore point's disks are whatever a guest, or who had broken into it, made of them. So what understands file systems
runs in a process of its own that has one socket to read disks from, one pipe to tell what it found, and no more rights;
and what it tells is judged, by the process that writes files, as what a stranger says.
"""
