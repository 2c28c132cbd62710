"""The notifier `syslog`: one line for each session.

To another host as RFC 5424 has it, with structured data; to a local socket in the form of syslog(3), which is all that
journald and many others understand there.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from holdfast_agent.errors import NotDelivered
from holdfast_plugins.api import Notice, Registry, Severity

_LEVELS = {Severity.ERROR: 3, Severity.WARNING: 4, Severity.INFO: 6}
_MAX_BYTES = 2048
"""What a receiver should take at least (RFC 5424, 6.1)."""
_PLACE = re.compile(r"(?:(udp|tcp)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ENTERPRISE = "holdfast@32473"  # the number that RFC 5612 sets aside for those who have none


class Facility(StrEnum):
    """Where a receiver files it (RFC 5424, 6.2.1)."""

    USER = "user"
    DAEMON = "daemon"
    LOCAL0 = "local0"
    LOCAL1 = "local1"
    LOCAL2 = "local2"
    LOCAL3 = "local3"
    LOCAL4 = "local4"
    LOCAL5 = "local5"
    LOCAL6 = "local6"
    LOCAL7 = "local7"

    @property
    def number(self) -> int:
        return int(self.value[-1]) + 16 if self.value.startswith("local") else {"user": 1, "daemon": 3}[self.value]


class SyslogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``address``: a Unix socket's path ("/dev/log"), "udp://host:514" or "tcp://host:601"."""

    address: Annotated[str, msgspec.Meta(min_length=1, max_length=300)] = "/dev/log"
    facility: Facility = Facility.DAEMON

    def __post_init__(self) -> None:
        if not self.address.startswith("/") and _PLACE.fullmatch(self.address) is None:
            raise ValueError("address must be /dev/log or another absolute path, udp://host:514 or tcp://host:601")


class SyslogNotifier:
    """A ``Notifier``. Over UDP nobody knows whether it has arrived."""

    def __init__(self, options: SyslogOptions, _secret: Mapping[str, str]) -> None:
        self._options = options

    def send(self, notice: Notice, timeout_s: float) -> None:
        try:
            self._deliver(notice, timeout_s)
        except OSError as error:
            raise NotDelivered(place=self._options.address, reason=error.strerror or str(error)) from error

    def _deliver(self, notice: Notice, timeout_s: float) -> None:
        facility = self._options.facility
        named = _PLACE.fullmatch(self._options.address)
        line = _local_line(notice, facility) if named is None else _line(notice, facility)
        if named is None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
                local.settimeout(timeout_s / 2)
                local.connect(self._options.address)
                local.send(line)
        elif named[1] == "tcp":
            with socket.create_connection((named[2].strip("[]"), int(named[3])), timeout_s / 4) as stream:
                stream.sendall(b"%d %b" % (len(line), line))  # counted octets (RFC 6587, 3.4.1)
        else:
            host, port = named[2].strip("[]"), int(named[3])
            family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as datagram:
                datagram.connect(target)
                datagram.send(line)


def _line(notice: Notice, facility: Facility) -> bytes:
    moment = datetime.fromtimestamp(notice.ended, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    host = re.sub(r"[^\x21-\x7e]", "?", notice.host)[:255] or "-"
    head = f"<{_priority(notice, facility)}>1 {moment} {host} holdfast {os.getpid()} session-end"
    return _cut(f"{head} [{_ENTERPRISE} {_facts(notice)}] {notice.subject}")


def _local_line(notice: Notice, facility: Facility) -> bytes:
    at = time.localtime(notice.ended)
    moment = f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return _cut(f"<{_priority(notice, facility)}>{moment} holdfast[{os.getpid()}]: {notice.subject} {_facts(notice)}")


def _priority(notice: Notice, facility: Facility) -> int:
    return facility.number * 8 + _LEVELS[notice.severity]


def _facts(notice: Notice) -> str:
    """Names and values without quotation marks, brackets and backslashes: none of them may stand in there."""
    facts = {"session": str(notice.session), "kind": notice.kind, "job": notice.job, "result": notice.result}
    return " ".join(f'{name}="{value}"' for name, value in facts.items())


def _cut(line: str) -> bytes:
    return line.encode()[:_MAX_BYTES].decode(errors="ignore").encode()


def holdfast_register_notifiers(registry: Registry) -> None:
    registry.notifier("syslog", SyslogNotifier, summary="a line for each session to syslog", options_type=SyslogOptions)
