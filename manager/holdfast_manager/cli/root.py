"""`holdfast` itself: its global options and where each command lives."""

from __future__ import annotations

import click

import holdfast_agent

from .app import App, pass_app
from .commands import LazyGroup

_HERE = "holdfast_manager.cli"
_PLACES = {
    "init": (f"{_HERE}.init:init", "Make the data directory, the configuration database and the manager's keys."),
    "doctor": (f"{_HERE}.doctor:doctor", "Examine the whole set-up, and say what is to be done."),
    "agent": (f"{_HERE}.agent:agent", "Agents: the hosts that move and keep data."),
    "server": (f"{_HERE}.server:server", "Servers: the hypervisors whose VMs are backed up."),
    "repository": (f"{_HERE}.repository:repository", "Repositories: where restore points are kept."),
    "key": (f"{_HERE}.key:key", "Keys of repositories: passphrases and the paper key."),
    "network": (f"{_HERE}.network:network", "The network: traffic rules and preferred networks."),
    "job": (f"{_HERE}.job:job", "Backup jobs: what is backed up, and where to."),
    "service": (f"{_HERE}.service:service", "The Backup Service: jobs by schedule, and clean-up after crashes."),
    "notifier": (f"{_HERE}.notifier:notifier", "Notifiers: who is told when a session has ended."),
    "session": (f"{_HERE}.session:session", "Sessions: what ran, what runs, and how it went."),
    "report": (f"{_HERE}.report:report", "A page about everything: VMs, sessions, growth, bottlenecks."),
    "point": (f"{_HERE}.point:point", "Restore points."),
    "prune": (f"{_HERE}.prune:prune", "Prune the restore points that no retention keeps."),
    "protect": (f"{_HERE}.protect:protect", "Protect a restore point from pruning."),
    "unprotect": (f"{_HERE}.protect:unprotect", "Lift the protection of a restore point."),
    "retention": (f"{_HERE}.retention:retention", "Retention: what a policy keeps."),
    "restore": (f"{_HERE}.restore:restore", "Restore files, a disk to a file, or a VM to a server."),
    "verify": (f"{_HERE}.verify:verify", "Prove that a restored VM would work."),
    "instant": (f"{_HERE}.instant:instant", "Instant recovery: a VM runs from its restore point within seconds."),
    "export": (f"{_HERE}.export:export", "Serve disks of a restore point over NBD, without restoring them first."),
    "benchmark": (f"{_HERE}.benchmark:benchmark", "Measure a proxy and a repository, and predict what a job will do."),
    "user": (f"{_HERE}.user:user", "Users: who may do what on a manager that several people share."),
    "remote": (f"{_HERE}.remote:remote", "Managers on other hosts, to work with from here."),
    "approval": (f"{_HERE}.approval:approval", "Four eyes: what one person asks for, another one grants."),
    "audit": (f"{_HERE}.audit:audit", "The audit log: who did what, from where, and how it went."),
    "plugin": (f"{_HERE}.plugin:plugin", "Plugins: what is loaded and what it provides."),
    "config": (f"{_HERE}.config:config", "The manager's own configuration."),
    "db": (f"{_HERE}.db:db", "The configuration database."),
    "apply": (f"{_HERE}.apply:apply", "Bring the configuration to what a TOML file says."),
}


@click.group(
    cls=LazyGroup,
    places=_PLACES,
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
    examples=(
        "holdfast init",
        "holdfast agent add local backup1:8430 KEY",
        "holdfast server add lab --plugin images --option path=/srv/images",
        "holdfast repository add main --agent local --path /srv/backup/main --create",
        "holdfast job create nightly --server lab --include '*' --repository main",
        "holdfast job run nightly",
        "holdfast restore vm --vm web --point latest --server lab --name web-restored",
    ),
)
@click.version_option(holdfast_agent.__version__, prog_name="holdfast", message="%(prog)s %(version)s")
@pass_app
def root(app: App) -> None:
    """Image-level backup of virtual machines.

    Exit codes: 0 success, 1 failed, 2 wrong usage or configuration, 3 some VMs failed, 4 warnings (with --strict),
    10 not found, 11 in use, 12 wrong key or passphrase, 13 denied, 14 verification found damage, 20 outside
    the backup window, 130 cancelled.
    """
    app.start_logging()
