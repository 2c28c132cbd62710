"""Errors of hypervisors, guests and plugins. Plugin authors raise these; the session decides what follows."""

from __future__ import annotations

from .base import HoldfastError


class PlatformError(HoldfastError):
    """Family: a hypervisor, a guest or a plugin could not do its part."""


class HypervisorUnreachable(PlatformError):
    code = "hypervisor_unreachable"
    message = "the hypervisor {server} cannot be reached: {reason}"
    action = "Check the address and credentials of the server"
    retryable = True


class RightsMissing(PlatformError):
    code = "rights_missing"
    message = "the user of {server} may not do all that backups need: {missing}"
    action = "Give these rights to the user's role, or add the server as it is with --lacking-rights"
    exit_code = 13


class BootNotProven(PlatformError):
    code = "boot_not_proven"
    message = "the VM was not seen to come up: {reason}"
    action = "Look at its console and screenshot; more memory, another bus or firmware may be what it needs"
    exit_code = 14


class VmNotFound(PlatformError):
    code = "vm_not_found"
    message = "there is no VM {vm!r} on {server}"
    action = "`holdfast server show {server}` lists its VMs{nearest}"
    exit_code = 10

    def __init__(self, *, vm: str, server: str, nearest: str = "") -> None:
        super().__init__(vm=vm, server=server, nearest=nearest)


class NoVmChosen(PlatformError):
    """A job that quietly backs up nothing is the worst of all jobs."""

    code = "no_vm_chosen"
    message = "no VM of {server} is chosen by {entries}: {reason}"
    action = "{advice}; `holdfast server show {server}` lists what there is"
    exit_code = 10


class DiskUnsupported(PlatformError):
    """The VM or one of its disks is of a kind that this plugin cannot back up; trying again does not help."""

    code = "disk_unsupported"
    message = "{disk} cannot be backed up: {reason}"
    action = "{advice}"


class SnapshotFailed(PlatformError):
    code = "snapshot_failed"
    message = "the snapshot of {vm} failed: {reason}"
    action = "The VM is unharmed, and the task is retried; if that fails too, the hypervisor's own log says more"
    retryable = True


class SnapshotNotRemoved(PlatformError):
    """The removal stays written down as an obligation and is tried again by whoever comes next."""

    code = "snapshot_not_removed"
    message = "the snapshot {snapshot} of {vm} could not be removed: {reason}"
    action = "It is removed by the next session or by `holdfast server clean`"
    retryable = True


class GuestProcessingFailed(PlatformError):
    code = "guest_processing_failed"
    message = "guest processing of {vm} failed at {phase}: {reason}"
    action = "Mend the guest, or set the job's guest policy to `try` to back up without it"
    retryable = True


class GuestAgentSilent(PlatformError):
    """There is no agent in the guest, no way to it, or it hangs. A command that was sent may be carried out later."""

    code = "guest_agent_silent"
    message = "the guest agent of {vm} does not answer: {reason}"
    action = "Install and start qemu-guest-agent in the guest, and see that the VM has its channel"
    retryable = True


class GuestAgentRefused(PlatformError):
    code = "guest_agent_refused"
    message = "the guest agent of {vm} refused {command}: {reason}"
    action = "See by the agent's configuration in the guest which commands it may carry out"


class ChangeTrackingLost(PlatformError):
    """The change id cannot be used. Never fails a backup: the disk falls to the next change mode."""

    code = "change_tracking_lost"
    message = "{reason}"


class PluginBroken(PlatformError):
    code = "plugin_broken"
    message = "the plugin {plugin!r} could not be loaded: {reason}"
    action = "Mend or remove it; other plugins are not affected"


class PluginMissing(PlatformError):
    code = "plugin_missing"
    message = "no plugin provides the {family} {name!r}"
    action = "`holdfast plugin list` shows what is loaded{nearest}"
    exit_code = 10


class PluginHung(PlatformError):
    """A call of a plugin was given up. What it made or still makes stands in the journal of obligations."""

    code = "plugin_hung"
    message = "the plugin {plugin!r} has not come back from {method} after {limit_s:.0f} s and is left alone there"
    action = "See what keeps the server busy, then run the job again: that removes what was left behind"


class PluginDefect(PlatformError):
    """A plugin raised something it should not, or handed back a value that breaks its contract."""

    code = "plugin_defect"
    message = "the plugin {plugin!r} broke its contract in {method}: {reason}"
    action = "This is a defect of the plugin: report it to its author"


class NotDelivered(PlatformError):
    code = "not_delivered"
    message = "{place} could not be told: {reason}"
    action = "It is tried again for a day; `holdfast notifier test` tries it at once"
    retryable = True


class NoticeRefused(PlatformError):
    """The receiver will not take this notice, however often it is tried."""

    code = "notice_refused"
    message = "{place} will not be told: {reason}"
    action = "See the options of this notifier, then `holdfast notifier test`"
