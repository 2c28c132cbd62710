"""Restore points over NFS 3: the disks of one export as a folder of VMDKs, for hypervisors that mount datastores.

One address of this host serves one export: NFS and MOUNT on one port, and a portmapper that tells it, TCP only. NFS 3
(RFC 1813) proves nobody: who may connect is told by address. Everything that a client says is bounded before memory is
taken for it, and no name that it gives ever becomes one of this host's file systems.
"""
