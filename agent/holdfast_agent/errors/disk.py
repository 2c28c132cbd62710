"""Errors of reading and writing disks."""

from __future__ import annotations

from .base import HoldfastError


class DiskError(HoldfastError):
    """Family: a disk cannot be read or written as asked."""


class DiskUrlInvalid(DiskError):
    code = "disk_url_invalid"
    message = "{url!r} is not a disk URL: {reason}"
    action = (
        "Known forms: file:/path, block:/dev/name, image:/path?format=qcow2, nbd+unix:/socket?export=name, "
        "nbds://host:10809?export=name, nbd://…, https://host/path, http://…, vddk://host/[datastore] path"
    )
    exit_code = 2


class DiskNotFound(DiskError):
    code = "disk_not_found"
    message = "the disk {url} does not exist on {host}"
    action = "Check the path, and that the proxy sees the storage at that path"
    exit_code = 10


class DiskDenied(DiskError):
    """Outside the directories that the agent's configuration opens to managers, or no permission."""

    code = "disk_denied"
    message = "{host} may not open {url}: {reason}"
    action = "Add its directory to proxy.paths in the agent's configuration, or correct its permissions"
    exit_code = 13


class DiskServerDenied(DiskError):
    """The agent's configuration names the servers that managers may make it connect to."""

    code = "disk_server_denied"
    message = "{host} may not connect to {server} for {url}"
    action = "Add {server} to proxy.servers in the agent's configuration; nbd: and http: are not encrypted"
    exit_code = 13


class DiskServerUntrusted(DiskError):
    code = "disk_server_untrusted"
    message = "the server of {url} did not prove who it is: {reason}"
    action = "Name its authority in proxy.tls_ca_file of the agent's configuration, or correct the server's certificate"
    exit_code = 13


class DiskReadOnly(DiskError):
    code = "disk_read_only"
    message = "{url} cannot be written: its server exports it read-only"
    action = "Have its server export it for writing, or restore to another disk"
    exit_code = 13


class DiskChanged(DiskError):
    """What is read now is not what was opened. Nothing of it was used."""

    code = "disk_changed"
    message = "{url} became another disk while it was read: {reason}"
    action = "Read from a snapshot that nobody writes to"
    retryable = True


class DiskUnreadable(DiskError):
    code = "disk_unreadable"
    message = "reading {length_bytes} bytes at {offset_bytes} of {url} failed: {reason}"
    action = "Check the storage: a medium error wants another disk, not another backup"
    retryable = True


class DiskImageBroken(DiskError):
    """What an image says of itself makes no sense: another attempt reads the same."""

    code = "disk_image_broken"
    message = "{url} cannot be opened as {format}: {reason}"
    action = "See what `qemu-img check` says of it; the guest that it belongs to will not start from it either"


class DiskUnwritable(DiskError):
    code = "disk_unwritable"
    message = "writing {length_bytes} bytes at {offset_bytes} of {url} failed: {reason}"
    action = "See that there is free space, and that the storage is sound"


class DiskShrunk(DiskError):
    """The disk ends before the size that it had when the snapshot was taken."""

    code = "disk_shrunk"
    message = "{url} ends at {found_bytes} bytes, but had {expected_bytes} when the transfer began"
    action = "Do not resize a disk while it is backed up; the next run takes the new size"


class DiskFolderMissing(DiskError):
    """A new disk cannot be made in a directory that is not there: it might be a storage that is not mounted."""

    code = "disk_folder_missing"
    message = "the directory {path}, in which the disk is to be made, does not exist on {host}"
    action = "Make it there, mount its storage, or name another place"
    exit_code = 10


class DiskExists(DiskError):
    code = "disk_exists"
    message = "{url} exists already"
    action = "Choose another place, or say --overwrite"
    exit_code = 2


class FilesUnreadable(DiskError):
    """File systems of a restore point, as a whole: single files that cannot be read are told, and the others go on."""

    code = "files_unreadable"
    message = "the file systems of the restore point could not be read: {reason}"
    action = "They may be damaged, or made to harm who reads them; `holdfast restore disk` restores them as they are"


class DiskInUse(DiskError):
    code = "disk_in_use"
    message = "{url} is in use: {reason}"
    action = "Stop what uses it, then try again"
    exit_code = 11


class RestoredBlockWrong(DiskError):
    """A block that was decoded does not have the id under which the restore point refers to it."""

    code = "restored_block_wrong"
    message = "block {block} of {disk} does not match its id after decoding"
    action = "Run `holdfast repository verify --level 2`; nothing wrong was written"
    exit_code = 14
