"""Errors of the repository."""

from __future__ import annotations

from .base import HoldfastError


class RepositoryError(HoldfastError):
    """Family: a repository cannot do what was asked."""


class RepositoryNotFound(RepositoryError):
    code = "repository_not_found"
    message = "there is no repository at {path}"
    action = "Check the path and that the storage is mounted; `holdfast repository add --create` makes a new one"
    exit_code = 10


class RepositoryFolderMissing(RepositoryError):
    """A repository cannot be made in a directory that is not there: it might be a storage that is not mounted."""

    code = "repository_folder_missing"
    message = "the directory {path}, in which the repository is to be made, does not exist on the agent's host"
    action = "Mount its storage there, or make it as the agent's user (`mkdir {path}`); then try again"
    exit_code = 10


class RepositoryExists(RepositoryError):
    code = "repository_exists"
    message = "{path} holds a repository (or other files) already"
    action = "Add it without --create, or choose an empty directory"
    exit_code = 2


class RepositoryDenied(RepositoryError):
    code = "repository_denied"
    message = "the agent may not use {path}: {reason}"
    action = "Add its directory to repository.paths in the agent's configuration, or correct its permissions"
    exit_code = 13


class RepositoryClaimed(RepositoryError):
    """Storage that several hosts can mount: the locks and caches of two of them know nothing of each other."""

    code = "repository_claimed"
    message = "the repository at {path} is served by the agent {holder}; a repository is used by one agent only"
    action = "Use it through that agent. If its host is gone for good: `holdfast-agent take-over {path}` on this one"
    exit_code = 11


class RepositoryFull(RepositoryError):
    code = "repository_full"
    message = "no space left in the repository at {path}"
    action = "Extend the storage, or free space: `holdfast prune`, then `holdfast repository gc`. All points are whole"


class RepositoryReadOnly(RepositoryError):
    code = "repository_read_only"
    message = "the repository at {path} cannot be written: {reason}"
    action = "Remount it writable or correct its permissions"


class RepositoryIoError(RepositoryError):
    """The storage reported an error; after a failed write or fsync the file is dropped, never reused."""

    code = "repository_io_error"
    message = "{operation} of {name} failed: {reason}"
    action = "Check the storage of the repository"
    retryable = True


class FormatUnsupported(RepositoryError):
    code = "format_unsupported"
    message = "{name} needs {feature}, which this version does not know"
    action = "Upgrade the agent of this repository"


class ObjectDamaged(RepositoryError):
    """An object of the repository is not what it must be: cut, altered, or swapped with another."""

    code = "object_damaged"
    message = "{name} is damaged at byte {offset_bytes}: {reason}"
    action = "`holdfast repository verify` tells which points it touches; the next backup heals what disks still have"
    exit_code = 14


class ObjectMissing(RepositoryError):
    code = "object_missing"
    message = "{name} is missing from the repository"
    action = "Check that the storage is mounted whole; then run `holdfast repository verify`"
    exit_code = 14


class OriginDamaged(RepositoryError):
    """A copy or a heal that meets damage in the repository that it reads from."""

    code = "origin_damaged"
    message = "{what} of {disk} cannot be read from the repository that it is copied from: {reason}"
    action = "Other points are not touched. The next backup into that repository heals it; so does `repository heal`"
    exit_code = 14


class PointNotFound(RepositoryError):
    code = "point_not_found"
    message = "there is no restore point {point} in this repository"
    action = "`holdfast point list` shows those that exist"
    exit_code = 10


class PointRetained(RepositoryError):
    """Immutable for a time: nobody may prune it before, not even who made it so."""

    code = "point_retained"
    message = "restore point {point} must be kept until {until}, and the repository's trusted time is {now}"
    action = "Wait until then; the time can be extended, never shortened"
    exit_code = 13


class ImmutableUnavailable(RepositoryError):
    """The helper that sets ``chattr +i`` does not answer."""

    code = "immutable_unavailable"
    message = "the helper for immutable files at {socket} does not answer: {reason}"
    action = "Start holdfast-agent-immutable, or empty repository.immutable_helper in the agent's configuration"
    retryable = True


class ImmutableUnsupported(RepositoryError):
    """The file system has no attribute that keeps files from being removed."""

    code = "immutable_unsupported"
    message = "the file system of {path} cannot make files immutable (chattr +i)"
    action = "ext4, XFS and btrfs can; else empty repository.immutable_helper in the agent's configuration"


class PointHeld(RepositoryError):
    """Somebody protected the point until further notice."""

    code = "point_held"
    message = "restore point {point} is protected"
    action = "`holdfast unprotect {point}` lifts that"
    exit_code = 13


class UndoWindowOver(RepositoryError):
    """A garbage collection has given the point up; its data may be gone already."""

    code = "undo_window_over"
    action = "Take another restore point: `holdfast point list`"
    message = "restore point {point} was pruned too long ago to be given back: a garbage collection has given it up"
    exit_code = 10


class PointNotAuthentic(RepositoryError):
    """A restore point whose MAC does not match: altered, or written under another key."""

    code = "point_not_authentic"
    message = "restore point {point} is not authentic: its MAC does not match the repository's key"
    action = "Do not restore from it; it was altered, or belongs to another repository"
    exit_code = 14


class SessionFenced(RepositoryError):
    """This writer was declared dead by a collector while it was away; its work cannot be committed."""

    code = "session_fenced"
    message = "the backup session {sid} was fenced off as dead and cannot commit"
    action = "Run the job again; blocks that were stored already are found and not sent again"
    retryable = True


class SessionUnknown(RepositoryError):
    code = "session_unknown"
    message = "the repository has no open session {sid}"
    action = "Nothing has to be done: the task is started anew"
    retryable = True


class WrongPassphrase(RepositoryError):
    code = "wrong_passphrase"
    message = "the passphrase does not open the repository {name}"
    action = "Try another one, all key slots were tried; or open it by the paper key (--paper-file)"
    exit_code = 12


class WrongKey(RepositoryError):
    """A key that was kept for this repository does not open its records."""

    code = "wrong_key"
    message = "the key does not fit {name}: {reason}"
    action = "Give the repository's passphrase again: `holdfast repository unlock`"
    exit_code = 12


class PaperKeyWrong(RepositoryError):
    """What was typed is not a paper key, or has a slip in it."""

    code = "paper_key_wrong"
    message = "this is not a whole paper key: {reason}"
    action = "Compare it with the paper, letter by letter"
    exit_code = 12


class BlockNotVerified(RepositoryError):
    """A compressed block did not decode to what was compressed: a faulty codec, memory or processor."""

    code = "block_not_verified"
    message = "a block compressed with {codec} does not decode to what it was"
    action = "The block was not stored and is tried again; if it keeps happening, test the memory of the proxy"
    retryable = True


class TreesDiffer(RepositoryError):
    """Source and target computed different roots for the same disk: the target did not store what was sent."""

    code = "trees_differ"
    message = "the repository's tree of {disk} differs from what the source read"
    action = "The task is retried; if it happens again, check the memory and storage of the repository host"
    retryable = True


class VerificationFailed(RepositoryError):
    """The outcome of a verification that found something wrong; each finding stands in its session's log."""

    code = "verification_failed"
    message = "the verification of {repository} found damage (findings: {findings})"
    action = "`holdfast session show` names each, and the restore points that it touches"
    exit_code = 14


class HealIncomplete(RepositoryError):
    """The outcome of a heal that could not bring everything back; each thing stands in its session's log."""

    code = "heal_incomplete"
    message = "what restore points of {repository} need is still lost ({findings} in all)"
    action = "`holdfast session show` names each. Another repository, or the next backup of the disk, may have them"
    exit_code = 14


class CollectionRefused(RepositoryError):
    """The collector sees something that a sound repository never shows, and deletes nothing."""

    code = "collection_refused"
    message = "garbage is not collected: {reason}"
    action = "Nothing was deleted. Check that the storage is mounted whole, then run `holdfast repository verify`"
    exit_code = 14
