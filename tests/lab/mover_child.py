"""A small real program in the place of a Data Mover, for tests of the service alone: it speaks the pipe protocol.

What it does is named by the task id of its specification:

``plain``     listens (target, reader), finishes an order, ends when told to
``facts``     answers an order with its own arguments, environment and descriptors
``dies``      ends with exit code 3 at once
``garbage``   writes a frame that is no report
``flood``     announces a frame of 4 GiB
``deaf``      reads nothing more and ignores SIGTERM
``hangs``     reads nothing more, but SIGTERM ends it
``children``  as ``deaf``, with a child in the same process group whose pid it reports as an endpoint
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import ssl
import struct
import subprocess
import sys
from pathlib import Path

import msgspec

from holdfast_agent.errors import Cancelled
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.wire import movers as pipe
from holdfast_agent.wire.specs import CheckOrder, MoverResult, ReaderSpec, TargetSpec

_to_mover = msgspec.msgpack.Decoder(pipe.MoverSetup | pipe.Begin | pipe.NewRules | pipe.Stop)


def _read_exactly(count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = os.read(0, count - len(data))
        if not more:
            return None
        data += more
    return data


def _read() -> pipe.ToMover | None:
    head = _read_exactly(4)
    body = _read_exactly(struct.unpack("<I", head)[0]) if head else None
    return None if body is None else _to_mover.decode(body)


def _write(frame: pipe.FromMover) -> None:
    body = msgspec.msgpack.encode(frame)
    os.write(1, struct.pack("<I", len(body)) + body)


def _facts(setup: pipe.MoverSetup) -> str:
    named = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    return json.dumps(
        {
            "argv": sys.argv,
            "env": dict(os.environ),
            "fds": sorted(fd for fd in named if _is_open(fd)),  # the listing had a descriptor of its own
            "session_fd": setup.host.session_fd,
            "random": [random.random(), secrets.token_hex(), ssl.RAND_bytes(16).hex()],
            "leads_group": os.getpgid(0) == os.getpid(),
            "cwd": str(Path.cwd()),
        }
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def main() -> None:
    setup = _read()
    assert isinstance(setup, pipe.MoverSetup)
    behaviour = setup.spec.task_id
    if behaviour == "dies":
        sys.exit(3)
    endpoints = ("tcp://127.0.0.1:1",)
    if behaviour in ("deaf", "children"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "children":
        child = subprocess.Popen(["/bin/sleep", "600"], stdout=subprocess.DEVNULL)
        endpoints = (str(child.pid),)
    if isinstance(setup.spec, (TargetSpec, ReaderSpec)):
        _write(pipe.Listening(endpoints=endpoints))
    if behaviour == "garbage":
        os.write(1, struct.pack("<I", 3) + b"abc")
    if behaviour == "flood":
        os.write(1, b"\xff\xff\xff\xff")
    if behaviour in ("deaf", "children", "hangs"):
        signal.pause()
    while (frame := _read()) is not None:
        if isinstance(frame, pipe.Stop):
            _write(pipe.Failed(error=Cancelled(reason=frame.reason).to_record(), counters=TransferCounters()))
            return
        if isinstance(frame, pipe.Begin):
            _write(pipe.Connected())
            assert not isinstance(frame.order, CheckOrder)
            counters = TransferCounters(size_bytes=frame.order.geometry.size_bytes)
            _write(pipe.Progressed(counters=counters))
            used = _facts(setup) if behaviour == "facts" else "file:/x"
            _write(pipe.Finished(result=MoverResult(used_disk=used), counters=counters))
            return


if __name__ == "__main__":
    main()
