"""Runs `holdfast` and `holdfast-agent` in processes that are forked from one that has loaded them already.

Loading takes longer than most commands do, and tests run hundreds of them. Each command is a process of its own still,
with its own arguments, environment and standard streams, and ends by the exit code of the program's entry point.

The server is a child with a packet socket as its standard input and ends when that is closed. A packet is a
:class:`lab.commands.Request` with four descriptors: a pipe that is told the process id and then the exit code, a line
each, and the command's standard streams.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

REQUEST_BYTES = 128 << 10
_LOADED_WHOLE = ("holdfast_manager.cli", "holdfast_manager.enrolment", "holdfast_agent.cli")
_LOADED = (
    "holdfast_manager.broker",
    "holdfast_manager.catalog.schema",
    "holdfast_manager.host",
    "holdfast_manager.sessions.program",
)
_PROGRAMS = {"holdfast": "holdfast_manager.cli.main", "holdfast-agent": "holdfast_agent.cli.main"}


def serve() -> None:
    """Serve until the other end of standard input is closed."""
    for package in map(import_module, _LOADED_WHOLE):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for name in _LOADED:
        import_module(name)
    gc.freeze()  # so that children share the pages of what is loaded
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as requests:
        while True:
            packet, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 4)
            if not packet:
                return
            if os.fork() == 0:
                requests.close()
                _supervise(json.loads(packet), descriptors[0], descriptors[1:])
            for descriptor in descriptors:
                os.close(descriptor)


def _supervise(request: dict[str, Any], told: int, streams: Sequence[int]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _run(request, streams)
    for descriptor in streams:
        os.close(descriptor)
    os.write(told, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _run(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    code = 1
    try:
        import_module(_PROGRAMS[os.path.basename(sys.argv[0])]).main()  # noqa: PTH119 - of a string that is no path here
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
