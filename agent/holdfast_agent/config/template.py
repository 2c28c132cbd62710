"""The commented configuration file that ``holdfast-agent init`` writes; every key stands in it."""

from __future__ import annotations

import json

from .settings import AgentSettings, ExportSettings, ProxySettings, RepositorySettings

_HEAD = """\
# Configuration of a Holdfast agent. Every key is shown; a line that begins with "#" and a key shows its default.
# An unknown key is an error, so that a slip of the pen never passes silently. After a change: restart the agent.
# Sizes are bytes, durations seconds.

# Name shown to managers and in session logs. Default: the host's name.
{name}

# Keys, authorised managers, caches and the lock of the running agent. Must be on a local file system.
{state_dir}

# Managers that may connect, one "KEY name" per line, kept by `holdfast-agent authorize`; a change takes effect at
# once, without a restart. Default: authorised_keys in state_dir.
{authorised_keys}

# debug, info, warning or error; the log goes to standard error.
{log_level}

[control]
# Where managers connect (tcp://ADDRESS:PORT, IPv6 in brackets). Nothing is answered to a key that is not authorised.
{listen}

[data]
# Address on which a Data Mover listens for the mover at the other end. Only the two movers of a task, which share
# its secret, can talk there.
{listen_address}

# Address that the other mover is told. Default: listen_address, or this host's name if that is 0.0.0.0; set it where
# movers reach this host by another address (NAT). A host in several networks names them all, the usual one first:
# ["10.0.0.5", "192.168.7.5"]; movers then connect by the first network that `holdfast network prefer` puts before the
# others and that both hosts have, and by the next one when that fails.
{advertised_address}

# First and last port for movers, to be opened in the firewall: at least one port for each task slot.
# [0, 0] takes any free port.
{port_range}

# A connection to another mover by which nothing came for so long is given up: a line may die without a word, which TCP
# notices after a quarter of an hour only. Movers say something four times in this time, however busy they are.
{silence_s}

# How long a lost connection between movers is sought anew, at each address of the other one in turn. It goes on where
# it was; nothing that has arrived is sent again. Then the task fails, and is retried or goes on at another proxy.
# 0: it fails at once. Both movers of a task count by their own agent's configuration.
{resume_s}
"""

_METRICS = """
[metrics]
# Where Prometheus reads this agent's metrics, at http://ADDRESS:PORT/metrics; "127.0.0.1:9470" for example. It tells
# numbers and paths to whoever asks, so leave it on loopback or a network of your own. Empty: nowhere.
{listen}
"""

_PROXY = """
# Role proxy: reads and writes disks for managers. Remove the table to take the role away.
[proxy]
# Directories below which disks may be opened. Symbolic links are resolved first; everything else is refused.
{paths}

# Servers from which disks may be read over the network; none by default. SCHEME://HOST or SCHEME://HOST:PORT, where
# HOST is a name, an address, or a network: ["https://esx1.example.com", "nbds://10.0.0.0/24:10809"]. The schemes nbd
# and http are not encrypted: name them for loopback and for storage networks only.
{servers}

# Certificates (PEM) of the authorities that vouch for these servers. Default: those of the system.
{tls_ca_file}

# Certificate and key (PEM) with which this host proves itself to servers that ask for it. Default: none.
{tls_certificate_file}
{tls_key_file}

# VMware's Virtual Disk Development Kit, unpacked, if disks are to be read by it ("vddk://vcenter.example.com" in
# servers); needs nbdkit with its plugin vddk. Default: none.
{vddk_dir}

# Tasks at a time, one per virtual disk. 0: one per core (a core compresses some 600 MiB/s).
{slots}

# Threads of each mover for hashing, compression and sealing. 0: one per core, at most 4.
{workers}
"""

_EXPORT = """
[export]
# How a proxy exports restore points over NBD (`holdfast export`).
# Directory of their sockets, and of what is written to exports that are writable: on a local file system with room for
# that. Only the agent's user may enter it. Default: exports in state_dir.
{directory}

# Bytes of decoded blocks that each export keeps in memory.
{cache_bytes}

# Certificate and key (PEM) with which exports over TCP prove themselves, and the certificates of the authorities that
# vouch for clients: nobody else is served. Without all three exports are Unix sockets on this host only.
{tls_certificate_file}
{tls_key_file}
{tls_client_ca_file}

# Addresses of this host, in numbers, at which hosts of vSphere mount restore points over NFS (`holdfast instant`), each
# for one VM at a time. NFS proves nobody and is not encrypted: use a network that only such hosts are in. None but the
# host that is to run the VM is served. Port 111 (the portmapper) must be free there, and the agent allowed to listen on
# it (see packaging/systemd). Empty: nothing is exported over NFS.
{nfs_addresses}
{nfs_port}

# Bytes that a hypervisor may write there beside the disks of one VM: its swap file, logs, snapshots.
{nfs_scratch_bytes}
"""

_REPOSITORY = """
# Role repository: keeps restore points. Remove the table to take the role away.
[repository]
# Directories below which managers may create and use repositories.
{paths}

# Tasks at a time. 0: two per core (a target mover only checks and appends).
{slots}

# Socket of holdfast-agent-immutable (packaging/systemd), which makes the files of points that must be kept until a time
# immutable (chattr +i), so that not even this agent can remove them before. Empty: nobody does. The agent must not run
# as root then.
{immutable_helper}
"""


def render(settings: AgentSettings) -> str:
    """The file that gives ``settings``. Keys at their defaults are written as comments."""
    plain = AgentSettings()
    data, control = settings.data, settings.control
    text = _HEAD.format(
        name=_line("name", settings.name, plain.name),
        state_dir=_line("state_dir", settings.state_dir, plain.state_dir),
        authorised_keys=_line("authorised_keys", settings.authorised_keys, plain.authorised_keys),
        log_level=_line("log_level", settings.log_level, plain.log_level),
        listen=_line("listen", control.listen, plain.control.listen),
        listen_address=_line("listen_address", data.listen_address, plain.data.listen_address),
        advertised_address=_line("advertised_address", data.advertised_address, plain.data.advertised_address),
        port_range=_line("port_range", data.port_range, plain.data.port_range),
        silence_s=_line("silence_s", data.silence_s, plain.data.silence_s),
        resume_s=_line("resume_s", data.resume_s, plain.data.resume_s),
    )
    text += _METRICS.format(listen=_line("listen", settings.metrics.listen, plain.metrics.listen))
    return text + _role(_PROXY, settings.proxy) + _export(settings) + _role(_REPOSITORY, settings.repository)


def _export(settings: AgentSettings) -> str:
    """Shown to proxies only, to whom it says something."""
    if settings.proxy is None:
        return ""
    export, plain = settings.export, ExportSettings()
    return _EXPORT.format(
        **{key: _line(key, getattr(export, key), getattr(plain, key)) for key in ExportSettings.__struct_fields__}
    )


def _role(template: str, role: ProxySettings | RepositorySettings | None) -> str:
    if role is None:
        return ""
    lines = {"paths": _line("paths", role.paths, None), "slots": _line("slots", role.slots, 0)}
    if isinstance(role, ProxySettings):
        lines["workers"] = _line("workers", role.workers, 0)
        lines["servers"] = _line("servers", role.servers, ())
        for key in ("tls_ca_file", "tls_certificate_file", "tls_key_file", "vddk_dir"):
            lines[key] = _line(key, getattr(role, key), "")
    else:
        lines["immutable_helper"] = _line("immutable_helper", role.immutable_helper, "")
    return template.format(**lines)


def _line(key: str, value: object, default: object) -> str:
    # A JSON string, number or list of them is also a TOML one, save for DEL, which a name or path here never holds.
    return f"{'# ' if value == default else ''}{key} = {json.dumps(value, ensure_ascii=False)}"
