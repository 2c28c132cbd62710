"""Errors of the catalogue itself."""

from __future__ import annotations

from holdfast_agent.errors import HoldfastError


class CatalogError(HoldfastError):
    """Family: the configuration database cannot do what was asked."""


class CatalogMissing(CatalogError):
    code = "catalog_missing"
    message = "there is no configuration database at {place}"
    action = "Make one by `holdfast init`, or name the right configuration by --config"
    exit_code = 10


class CatalogUnavailable(CatalogError):
    """It cannot be opened, read or written: permissions, a full disk, a damaged file, a server that is away."""

    code = "catalog_unavailable"
    message = "the configuration database at {place} cannot be used: {reason}"
    action = "Check the path, its permissions and free space"
    retryable = True


class ConnectionCut(CatalogUnavailable):
    """The database's server ended the connection; what was under way is undone for sure, and may be run again."""

    code = "catalog_connection_cut"
    message = "the connection to the configuration database at {place} was cut: {reason}"
    action = "Its server was restarted, or ends connections; see its log"


class CatalogNewer(CatalogError):
    code = "catalog_newer"
    message = "the configuration database at {place} was made by a newer Holdfast (schema {found})"
    action = "Upgrade Holdfast on this host; an older version would not understand all of it"


class CatalogOlder(CatalogError):
    """Only of databases shared by several hosts: they are migrated when the administrator says so."""

    code = "catalog_older"
    message = "the configuration database at {place} has the older schema {found}"
    action = "Stop all sessions and run `holdfast db migrate`"


class CatalogInUse(CatalogError):
    """Of a schema that is to be replaced, by processes of the version that knows it."""

    code = "catalog_in_use"
    message = "the configuration database at {place} has the older schema {found}, which is in use by {users}"
    action = (
        "Wait for the end of sessions, or end them in order (`kill PID`), and stop or restart the service; sessions of "
        "hosts that are gone: `holdfast db migrate --others-are-dead`"
    )
    retryable = True
    exit_code = 11


class CatalogNotEmpty(CatalogError):
    code = "catalog_not_empty"
    message = "the database at {place} holds a configuration already: there are rows in {table}"
    action = "Nothing was copied; name a database that is empty"
    exit_code = 11


class CatalogCopyDiffers(CatalogError):
    """What was read back is not what was written: the copy was rolled back."""

    code = "catalog_copy_differs"
    message = "the copy of table {table} differs from the original: {key}"
    action = "Nothing was copied; please report this"


class RepositorySealed(CatalogError):
    """A repository that was sealed is asked to take a new point."""

    code = "repository_sealed"
    message = "the repository {repository} is sealed: it takes no new restore points"
    action = "`holdfast repository unseal` opens it again; or let the job write elsewhere"


class NoMemberTakes(CatalogError):
    """No member of a group can take a VM's next point."""

    code = "no_member_takes"
    message = "no repository of the group {group} can take a point of {vm}: {reasons}"
    action = "Make room, unseal one, bring its agent back, or add a repository to the group"
    retryable = True


class InUse(CatalogError):
    """Something cannot be removed or changed because others refer to it."""

    code = "in_use"
    message = "the {kind} {name!r} is used by {users}"
    action = "Change or remove those first"
    exit_code = 11


class SealingKeyUnusable(CatalogError):
    code = "sealing_key_unusable"
    message = "the key file {file} cannot be used: {reason}"
    action = "{advice}"
    exit_code = 12


class SecretUnreadable(CatalogError):
    """A sealed secret was altered, moved to another row, or sealed under another key."""

    code = "secret_unreadable"
    message = "the {what} of {kind} {name!r} cannot be unsealed: altered, or sealed under another key"
    action = "Restore the key file that belongs to this database, or give the secret again"
    exit_code = 12


class SessionDied(CatalogError):
    """Written into a session whose process is gone without having ended it."""

    code = "session_died"
    message = "the session process died ({process})"
    action = "Run the job again: it clears what was left, and finds the blocks that were stored already"
    retryable = True


class ObligationsOpen(CatalogError):
    """Something that a dead session left on a hypervisor could not be removed."""

    code = "obligations_open"
    message = "what sessions left on server {server!r} could not be removed ({count} in all): {reason}"
    action = "It is tried again, ever more seldom; `holdfast service show` lists them"
    retryable = True


class ConfigBackupUnreadable(CatalogError):
    """Cut, altered, made by a later version, or no backup of a configuration at all."""

    code = "config_backup_unreadable"
    message = "{file} is not a whole backup of a configuration: {reason}"
    action = "Nothing was restored; take another copy of the backup"
    exit_code = 14


class ConfigBackupLocked(CatalogError):
    code = "config_backup_locked"
    message = "the passphrase does not open {file}, or the beginning of the file was altered"
    action = "Try again; it is the passphrase that was given to `holdfast config backup`"
    exit_code = 12


class AuditBroken(CatalogError):
    """The audit log does not hold together: somebody who has the database in hand changed it."""

    code = "audit_broken"
    message = "the audit log is not whole: {reason}"
    action = "Compare it with a backup of the configuration, and find out who could write to the database"
    exit_code = 14
