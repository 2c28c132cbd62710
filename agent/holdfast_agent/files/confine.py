"""Gives up, in this process and for good, everything that reading a disk through one socket does not need.

Each measure alone would do on most days; together they leave a process that was taken over with the disks that it may
read anyway, a pipe, memory and time, all of them bounded:

- no new descriptors (RLIMIT_NOFILE 0), no bytes to files (RLIMIT_FSIZE 0), no core dump;
- where it began as root: an empty root directory, no groups, a user that owns nothing, no new processes;
- it ends with the process that began it;
- no new privileges by programs, and no system call beside a short list (seccomp).

Numbers of system calls: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h;
filters: https://docs.kernel.org/userspace-api/seccomp_filter.html .
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
from pathlib import Path

NOBODY = 65534

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 1, 38, 22, 2
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ARCHITECTURE_AT, _NUMBER_AT = 4, 0
# (audit architecture, calls by number): read write writev close fstat lseek poll mmap mprotect munmap brk rt_sigaction
# rt_sigprocmask rt_sigreturn mremap madvise getpid sendto recvfrom sendmsg recvmsg shutdown exit exit_group sched_yield
# gettimeofday futex clock_gettime sigaltstack getrandom restart_syscall
_KNOWN = {
    "x86_64": (
        0xC000003E,
        (0, 1, 20, 3, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 25, 28, 39, 44, 45, 46, 47, 48, 60, 231, 24, 96, 202, 228,
         131, 318, 219),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 66, 57, 80, 62, 73, 222, 226, 215, 214, 134, 135, 139, 216, 233, 172, 206, 207, 211, 212, 210, 93,
         94, 124, 169, 98, 113, 132, 278, 128),
    ),
}  # fmt: skip


class NotConfined(Exception):
    """This host does not let a process give up its rights."""


def confine(empty_folder: str, memory_bytes: int, cpu_s: int) -> str:
    """Called once, with all modules loaded, all descriptors open that will be needed and no other thread.

    ``empty_folder``: removed, so that whatever ends this process leaves nothing; and where this process is root, its
    root directory all the same. Returns what was done, for the log. Raises :class:`NotConfined`, OSError.
    """
    done = ["no new files"]
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 0,
    }
    os.chdir(empty_folder)
    Path(empty_folder).rmdir()
    if os.geteuid() == 0:
        os.chroot(".")
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        limits[resource.RLIMIT_NPROC] = 0
        done.append("an empty root, the user nobody")
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # which another user had made it forget
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise NotConfined(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    if _filter_calls(library):
        done.append("few system calls")
    _prove()
    return ", ".join(done)


def _filter_calls(library: ctypes.CDLL) -> bool:
    """False where the kernel or its architecture has no filter for us."""
    known = _KNOWN.get(platform.machine())
    if known is None:
        return False
    architecture, calls = known
    program = b"".join(
        (
            _step(_LOAD, 0, 0, _ARCHITECTURE_AT),
            _step(_EQUAL, 1, 0, architecture),
            _step(_RETURN, 0, 0, _KILL),
            _step(_LOAD, 0, 0, _NUMBER_AT),
            *(_step(_EQUAL, len(calls) - place, 0, number) for place, number in enumerate(calls)),
            _step(_RETURN, 0, 0, _REFUSE),
            _step(_RETURN, 0, 0, _ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    whole = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    return not library.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(whole), 0, 0)


def _step(code: int, true: int, false: int, value: int) -> bytes:
    return struct.pack("@HBBI", code, true, false, value)


def _prove() -> None:
    """What must not work any more does not."""
    for attempt in (lambda: os.open("/", os.O_RDONLY), os.pipe):
        try:
            attempt()
        except OSError:
            continue
        raise NotConfined("it could still open files")
