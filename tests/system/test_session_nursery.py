"""Sessions that the service starts are forked from its template: as programs would be, and never dependent on it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionEntry, SessionResult, SessionState
from holdfast_manager.nursery import door
from lab.installation import Installation, installed
from lab.processes import alive, children, command
from lab.services import catalogue, nursery, service
from lab.waiting import wait_until

EVERY_SECOND = ("--schedule", "calendar *:*:*")
SLOW = ("--bandwidth", "16 KiB", "--compression", "none")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """With a job that is due each second, and whose sessions last until they are stopped."""
    with installed(tmp_path_factory.mktemp("house")) as made:
        made.add_repository("main", encrypted=False)
        (made.vms / "vm.img").write_bytes(os.urandom(4 << 20))
        made.add_job("slow", *EVERY_SECOND, *SLOW, repository="main", include="vm.img")
        yield made


@pytest.fixture
def catalog(house: Installation) -> Iterator[Catalog]:
    """Nothing runs when a test ends."""
    with catalogue(house) as opened:
        yield opened
        _end(opened)


def _end(catalog: Catalog) -> None:
    for session in catalog.sessions.living():
        catalog.sessions.request_stop(session.id)
    wait_until(lambda: not (catalog.sessions.reap_dead() or catalog.sessions.living()), "the end of all sessions")


def following(catalog: Catalog) -> tuple[SessionEntry, int]:
    """The next session, once it moves data, and its process, which is born after this is called.

    Those that were born before are stopped, also one that is written down only now.
    """
    now_ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))

    def moves() -> SessionEntry | None:
        for session in catalog.sessions.living():
            if session.process.start_ticks <= now_ticks:  # that of its starter, until its own is there
                if session.state is SessionState.RUNNING:
                    catalog.sessions.request_stop(session.id)
            elif any(task.state == "transferring" for task in catalog.tasks.list(session.id)):
                return session
        return None

    session = wait_until(moves, "a session that moves data")
    return session, session.process.pid


def forked(pid: int) -> bool:
    """Whether it is a fork of a template and no program of its own."""
    told = command(pid)
    assert ("nursery.template" in told) != ("holdfast_manager.sessions" in told), told
    return "nursery.template" in told


def _nature(pid: int) -> dict[str, object]:
    """What a process is beside its work, as the kernel tells it; with numbers that differ taken out."""
    place = Path(f"/proc/{pid}")
    fields = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapEff", "NoNewPrivs", "Seccomp")
    status = [line for line in (place / "status").read_text().splitlines() if line.split(":")[0] in fields]
    streams = [str((place / "fd" / str(number)).readlink()) for number in range(3)]
    leads = (os.getsid(pid), os.getpgid(pid)) == (pid, pid)
    told = {name: (place / name).read_bytes() for name in ("limits", "cgroup", "oom_score_adj")}
    terminal = (place / "stat").read_text().rpartition(") ")[2].split()[4]
    session = (place / "comm").read_text().strip().removeprefix("session-")
    return {
        **told,
        "status": status,
        "streams": [text.partition(":[")[0].replace(f"session-{session}.log", "its log") for text in streams],
        "others": (leads, terminal, (place / "cwd").readlink(), os.getpriority(os.PRIO_PROCESS, pid)),
    }


def _open(pid: int) -> set[str]:
    """What a process has open that others could share: pipes, sockets and files."""
    found = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    return {text for text in found if not text.startswith(("anon_inode", "/dev/null"))}


def test_it_is_what_a_program_would_be(house: Installation, catalog: Catalog) -> None:
    house.environment["HOLDFAST_NURSERY"] = "off"
    with service(house) as running:
        _, pid = following(catalog)
        assert not children(running.process.pid, "nursery.template")
        program, is_fork = _nature(pid), forked(pid)
    del house.environment["HOLDFAST_NURSERY"]
    assert not is_fork
    with service(house) as running:
        template = nursery(house, running)
        session, pid = following(catalog)
        assert forked(pid)
        nature = _nature(pid)
        assert not _open(pid) & _open(template) - {str(house.home / "service.log")}
        log = house.home / "manager" / "logs" / f"session-{session.id}.log"
        assert log.exists()
    assert nature == program


def test_sessions_outlive_template_and_service_and_neither_ends_with_a_session(
    house: Installation, catalog: Catalog
) -> None:
    with service(house) as first:
        template = nursery(house, first)
        killed, pid = following(catalog)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: catalog.sessions.get(killed.id).result is SessionResult.FAILED, "the session's end")
        session, pid = following(catalog)
        assert forked(pid)
        assert alive(template)
        os.kill(template, signal.SIGKILL)
        wait_until(lambda: not alive(template), "the end of the template")
        assert alive(pid)
        _, program = following(catalog)
        assert not forked(program)
    assert catalog.sessions.get(session.id).result is SessionResult.CANCELLED  # as it was asked to
    with service(house) as second:
        template = nursery(house, second)
        session, pid = following(catalog)
        second.kill()
        wait_until(lambda: not alive(template), "the end of the template")
    assert forked(pid)
    assert catalog.sessions.get(session.id).state is SessionState.RUNNING
    _end(catalog)
    assert catalog.sessions.get(session.id).result is SessionResult.CANCELLED


def test_a_template_that_hangs_or_differs_bears_none(house: Installation, catalog: Catalog) -> None:
    home = house.home / "manager"
    with service(house) as running:
        template = nursery(house, running)
        os.kill(template, signal.SIGSTOP)
        _, pid = following(catalog)
        assert not forked(pid)
        with contextlib.ExitStack() as stack, pytest.raises(BlockingIOError):
            for _ in range(100):  # nobody accepts, and none waits for that
                stack.enter_context(door.connect(home))
        os.kill(template, signal.SIGCONT)
        wait_until(lambda: not children(template), "the end of what nobody wants any more")
        _, pid = following(catalog)
        assert forked(pid)
        limits = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
        _, pid = following(catalog)
        assert not forked(pid)
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == limits[0] - 1
    assert not list((home / "logs").glob(".starting-*"))


def test_what_is_installed_now_is_what_runs(house: Installation, catalog: Catalog, tmp_path: Path) -> None:
    module = tmp_path / "sitecustomize.py"
    module.write_text("# of the old version\n")
    before = house.environment["PYTHONPATH"]
    house.environment["PYTHONPATH"] = f"{before}:{tmp_path}"
    with service(house) as running:
        template = nursery(house, running)
        _, pid = following(catalog)
        assert forked(pid)
        (tmp_path / "new").write_text("# of the new version\n")
        (tmp_path / "new").replace(module)
        _, pid = following(catalog)
        assert not forked(pid)
        wait_until(lambda: not alive(template), "the end of the template")
        assert "What is installed has changed" in running.log()
    house.environment["PYTHONPATH"] = before
