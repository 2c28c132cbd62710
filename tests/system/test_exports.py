"""`holdfast export` as people use it: real agent, real tools, agents and managers that die in the midst of it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.exports import nbdsh, run
from lab.installation import CommandFailed, Installation, installed
from lab.instants import exporting
from lab.processes import alive
from lab.waiting import wait_until

VM = "web.img"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An encrypted repository with one point of one disk."""
    with installed(tmp_path_factory.mktemp("house")) as house:
        with (house.vms / VM).open("wb") as image:
            image.truncate(32 << 20)
            image.seek(3 << 20)
            image.write(os.urandom(2 << 20))
        house.add_repository("main", encrypted=True)
        house.add_job("nightly", repository="main", include="*")
        house.run_job("nightly")
        yield house


def start(house: Installation, *options: str) -> tuple[str, str]:
    """(number, URI) of an export that serves."""
    export = house.holdfast("export", "start", "--vm", VM, "--point", "latest", *options)["export"]
    assert export["state"] == "serving"
    return str(export["session"]), export["disks"][0]["uri"]


def listed(house: Installation) -> list[dict[str, Any]]:
    exports: list[dict[str, Any]] = house.holdfast("export", "list")["exports"]
    return exports


def folders(house: Installation) -> list[Path]:
    return list((house.home / "agent" / "exports").glob("*/*"))


def answer(uri: str) -> str:
    """What an export has where the tests write; nothing as long as nobody serves it."""
    try:
        return nbdsh("print(h.pread(7, 5000).decode())", uri)[0]
    except AssertionError:
        return ""


def test_a_point_is_served_and_nothing_is_left_of_it(house: Installation, tmp_path: Path) -> None:
    number, uri = start(house)
    run("nbdcopy", uri, tmp_path / "copy")
    assert ((tmp_path / "copy").read_bytes() == (house.vms / VM).read_bytes()) is True
    (line,) = listed(house)
    assert (line["state"], line["vm"], line["proxy"]) == ("serving", VM, "local")
    assert house.points(VM)[0]["retained_until"] > time.time() + 3600  # nobody can prune it meanwhile
    assert house.holdfast("export", "stop", number)["ended"]
    assert house.holdfast("session", "show", number)["result"] == "success"
    assert listed(house) == []
    assert folders(house) == []


def test_what_was_flushed_survives_the_agent_and_goes_with_the_export(house: Installation) -> None:
    """kill -9 of the agent: its session starts the export again, at the same place, with what was written."""
    number, uri = start(house, "--writable")
    nbdsh("h.pwrite(b'written' * 100, 5000); h.flush()", uri)
    for end in (house.kill_agent, house.stop_agent):
        before = exporting(house)
        end()
        wait_until(lambda pid=before: not alive(pid), "the end of serving")
        house.start_agent()
        assert wait_until(lambda: answer(uri), "an export") == "written"
        wait_until(lambda: listed(house)[0]["state"] == "serving", "the session to know of it")
    house.holdfast("export", "stop", number)
    assert folders(house) == []
    number, uri = start(house, "--writable")
    assert nbdsh("print(h.pread(7, 5000) == bytes(7))", uri) == ["True"]
    house.holdfast("export", "stop", number)


def test_a_manager_that_dies_leaves_nothing(house: Installation) -> None:
    number, uri = start(house, "--writable")
    nbdsh("h.pwrite(b'x', 0); h.flush()", uri)
    house.kill_session(int(number))
    wait_until(lambda: not folders(house), "a clean-up")  # when the lease has run out
    assert listed(house) == []


def test_a_kept_export_is_resumed_and_discarded(house: Installation) -> None:
    """Whatever ends it, a dead manager too; its point stays on hold until what was written is thrown away."""
    first, uri = start(house, "--writable", "--keep")
    nbdsh("h.pwrite(b'kept', 9000); h.flush()", uri)
    house.holdfast("export", "stop", first)
    (line,) = listed(house)
    assert line["state"] == "kept"
    assert line["stored_bytes"] > 0
    assert house.points(VM)[0]["held"]
    second = str(house.holdfast("export", "resume", first)["export"]["session"])
    assert nbdsh("print(h.pread(4, 9000).decode())", uri) == ["kept"]
    for command in ("resume", "discard"):
        with pytest.raises(CommandFailed, match="in use by session"):
            house.holdfast("export", command, first)
    house.kill_session(int(second))
    wait_until(
        lambda: listed(house)[0]["state"] == "kept" and not Path(uri.partition("socket=")[2]).exists(), "what is kept"
    )
    assert [line["session"] for line in listed(house)] == [int(second)]
    house.holdfast("export", "discard", second)
    assert listed(house) == []
    assert folders(house) == []
    assert not house.points(VM)[0]["held"]


def test_what_cannot_be_served_is_told_at_once_and_nothing_goes_on(house: Installation) -> None:
    wrong = (
        (("--listen", "tls"), "exports nothing over TCP"),
        (("--listen", "unix:/srv/x.sock"), "lies outside"),
        (("--disk", "other"), "there is no disk named"),
        (("--keep",), "needs --writable"),
    )
    for options, reason in wrong:
        with pytest.raises(CommandFailed, match=reason):
            house.holdfast("export", "start", "--vm", VM, "--point", "latest", *options)
    with pytest.raises(CommandFailed, match="there is no export"):
        house.holdfast("export", "stop", "1")
    wait_until(lambda: listed(house) == [], "no exports")
    assert folders(house) == []


def test_a_guest_of_qemu_io_notices_a_restart_of_the_agent_by_nothing_but_a_pause(house: Installation) -> None:
    """QEMU's client asks again over a new connection what it had asked for."""
    number, uri = start(house, "--writable")
    socket = uri.partition("socket=")[2]
    options = f"driver=nbd,server.type=unix,server.path={socket},export={VM},reconnect-delay=60"
    command = ["qemu-io", "--image-opts", options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None

        def tell(line: str) -> str:
            """One line at a time: it looks for the next one only when more has come."""
            guest.stdin.write(f"{line}\n")
            guest.stdin.flush()
            answer = guest.stdout.readline()
            guest.stdout.readline()  # how fast it was
            return answer

        try:
            assert "wrote 1048576/1048576" in tell("write -f -P 7 1M 1M")
            house.kill_agent()
            house.start_agent()
            assert "read 1048576/1048576" in tell("read -P 7 1M 1M")
            assert "wrote 65536/65536" in tell("write -f -P 8 2M 64k")
        finally:
            guest.kill()
    assert nbdsh(f"print(h.pread(1, {2 << 20})[0])", uri) == ["8"]
    house.holdfast("export", "stop", number)
